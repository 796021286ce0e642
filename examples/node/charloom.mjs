// What a client needs of the .proto files: stubs, promises for single answers, and the reason of an error.
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import protobuf from "protobufjs";

const PROTO = fileURLToPath(new URL("../../proto", import.meta.url));
const FILES = ["generation", "sessions", "models"].map((name) => `charloom/v1/${name}.proto`);
const { v1 } = grpc.loadPackageDefinition(
  // Field names as in the files, 64-bit numbers as text: a seed does not fit into a number of JavaScript.
  loader.loadSync(FILES, { includeDirs: [PROTO], keepCase: true, longs: String, enums: String, oneofs: true }),
).charloom;

// https://github.com/googleapis/googleapis/tree/master/google/rpc: status.proto, error_details.proto
const rpc = protobuf.parse(`
  syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
`, { keepCase: true }).root;

/** Stubs for a server, such as "localhost:50051". */
export function connect(target, credentials = grpc.credentials.createInsecure()) {
  return {
    generation: new v1.GenerationService(target, credentials),
    sessions: new v1.SessionService(target, credentials),
    models: new v1.ModelService(target, credentials),
  };
}

/** The answer to a request, as a promise. */
export function ask(stub, method, request, metadata = new grpc.Metadata()) {
  return new Promise((resolve, reject) => {
    stub[method](request, metadata, { deadline: Date.now() + 30_000 }, (error, answer) =>
      error ? reject(error) : resolve(answer),
    );
  });
}

/** The `ErrorInfo` of an error: its reason, which programs can rely on, and the facts. */
export function infoOf(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  if (!bytes) return undefined;
  for (const detail of rpc.lookupType("Status").decode(bytes).details) {
    if (detail.type_url.endsWith("/google.rpc.ErrorInfo")) {
      return rpc.lookupType("ErrorInfo").decode(detail.value).toJSON();
    }
  }
  return undefined;
}
