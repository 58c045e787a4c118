import { defineConfig } from 'vite';

export default defineConfig({
  // The page is served at /graphql, its assets are below this prefix.
  base: '/graphiql/',
  build: {
    outDir: '../static/graphiql',
    emptyOutDir: true,
    // Monaco is one big piece, loaded once.
    chunkSizeWarningLimit: 3000,
    rolldownOptions: {
      onLog(level, log, report) {
        // A hundred notes about "use client", which means nothing here.
        if (log.code !== 'MODULE_LEVEL_DIRECTIVE') report(level, log);
      },
    },
  },
  server: {
    // `npm run dev` against a service that runs on its usual port.
    proxy: { '/graphql': { target: 'http://127.0.0.1:8000', ws: true } },
  },
});
