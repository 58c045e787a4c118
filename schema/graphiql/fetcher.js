import { createGraphiQLFetcher } from '@graphiql/toolkit';
import { getOperationAST, parse } from 'graphql';
import { createClient } from 'graphql-ws';

const path = '/graphql';
const keep = 50;

const overHttp = createGraphiQLFetcher({ url: path, enableIncrementalDelivery: false });

// What was last sent by any tab, so that a token need not be pasted into each of them.
let authorization;

export function fetcher(params, given) {
  const options = signedIn(given);
  const operation = operationOf(params);
  const request = { ...params, operationName: operation?.name?.value };
  return operation?.operation === 'subscription'
    ? subscribe(request, options?.headers)
    : overHttp(request, options);
}

// GraphiQL looks at a changed query a moment later only. Who is quicker, for example with
// Ctrl-Enter in a tab just opened, sends the name of the operation before.
function operationOf({ query, operationName }) {
  try {
    const document = parse(query);
    return getOperationAST(document, operationName) ?? getOperationAST(document);
  } catch {
    return null; // A syntax error; the server says it better.
  }
}

function signedIn(options) {
  authorization = header(options?.headers, 'Authorization') ?? authorization;
  const others = Object.entries(options?.headers ?? {}).filter(
    ([key]) => key.toLowerCase() !== 'authorization',
  );
  const headers = Object.fromEntries(others);
  return { ...options, headers: authorization ? { ...headers, authorization } : headers };
}

function subscribe(params, headers) {
  const url = new URL(path, location.href);
  url.protocol = url.protocol.replace('http', 'ws');
  const client = createClient({
    url: url.href,
    // A browser cannot set headers on a websocket, so the actor travels in connection_init.
    connectionParams: {
      actor: header(headers, 'Lifecycle-Actor'),
      authorization: header(headers, 'Authorization'),
    },
    // Reconnecting without a cursor could skip events unnoticed; better to see the end of it.
    retryAttempts: 0,
  });
  return history(client.iterate(params));
}

// GraphiQL shows one result at a time, and each event would wipe out the one before it. So show
// the latest ones, newest first. Not an async generator: its return() would wait for the next
// event, and the stop button with it.
function history(results) {
  const events = [];
  return {
    [Symbol.asyncIterator]() {
      return this;
    },
    async next() {
      let result;
      try {
        result = await results.next();
      } catch (error) {
        throw error instanceof CloseEvent
          ? new Error(`The connection was closed: ${error.code} ${error.reason}`.trim())
          : error;
      }
      if (result.done) return result;
      if (isHeartbeat(events[0])) events.shift(); // The last one is enough.
      events.unshift(result.value);
      events.length = Math.min(events.length, keep);
      return { done: false, value: { events: [...events] } };
    },
    return: () => results.return(),
  };
}

function isHeartbeat(result) {
  return Object.values(result?.data ?? {}).some((item) => item?.__typename === 'Heartbeat');
}

function header(headers, name) {
  const entry = Object.entries(headers ?? {}).find(
    ([key]) => key.toLowerCase() === name.toLowerCase(),
  );
  return entry?.[1];
}
