// PostGraphile as its documentation would have it in production: one process, Node ids, lists beside
// connections, prepared statements, no transaction around reads, nothing that is for developers.
// The environment says which database, which port, and how many connections.
import { createServer } from "node:http";
import { PgSimplifyInflectionPreset } from "@graphile/simplify-inflection";
import { grafserv } from "postgraphile/grafserv/node";
import { postgraphile } from "postgraphile";
import { makePgService } from "postgraphile/adaptors/pg";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";

const { DATABASE_URL, PORT, CONNECTIONS } = process.env;

const instance = postgraphile({
  extends: [PostGraphileAmberPreset, PgSimplifyInflectionPreset],
  // It would hide the versions of a model: their index begins with the foreign key's first column
  // and has not the second, which follows from it.
  disablePlugins: ["PgIndexBehaviorsPlugin"],
  pgServices: [
    makePgService({
      connectionString: DATABASE_URL,
      poolConfig: { max: Number(CONNECTIONS) },
      schemas: ["public"],
    }),
  ],
  schema: { defaultBehavior: "+list +connection -insert -update -delete" },
  grafserv: { graphiql: false, watch: false },
  grafast: { explain: false },
});

const server = createServer();
await instance.createServ(grafserv).addTo(server);
server.listen(Number(PORT), "127.0.0.1");
