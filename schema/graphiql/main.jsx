import './workers.js';
import 'graphiql/style.css';
import { createLocalStorage } from '@graphiql/toolkit';
import { GraphiQL } from 'graphiql';
import { createRoot } from 'react-dom/client';
import { fetcher } from './fetcher.js';

// One tab for each file, in the order of their names; NAME.json holds the variables, and
// NAME.headers.json the headers where they are others than usual.
const queries = import.meta.glob('./examples/*.graphql', {
  query: '?raw',
  import: 'default',
  eager: true,
});
const others = import.meta.glob('./examples/*.json', {
  query: '?raw',
  import: 'default',
  eager: true,
});
const headers = JSON.stringify({ 'Lifecycle-Actor': 'me@example.com' }, null, 2);
const tabs = Object.keys(queries)
  .sort()
  .map((name) => ({
    query: queries[name],
    variables: others[name.replace(/\.graphql$/, '.json')],
    headers: others[name.replace(/\.graphql$/, '.headers.json')] ?? headers,
  }));

createRoot(document.getElementById('graphiql')).render(
  <GraphiQL
    fetcher={fetcher}
    defaultTabs={tabs}
    defaultHeaders={headers}
    // Other services on this host and port have their own GraphiQL, with their own tabs.
    storage={createLocalStorage({ namespace: 'ml-lifecycle' })}
  >
    <GraphiQL.Logo>ML Lifecycle</GraphiQL.Logo>
  </GraphiQL>,
);
