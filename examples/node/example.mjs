// A stream, one that is cancelled, a session, and an error:  npm ci && node example.mjs [HOST:PORT]
import grpc from "@grpc/grpc-js";
import { ask, connect, infoOf } from "./charloom.mjs";

const { generation, sessions } = connect(process.argv[2] ?? "localhost:50051");
const sampling = { temperature: 0.7 };

console.log("--- a stream");
let result;
for await (const piece of generation.Generate({ options: { prompt: "ROMEO:", max_tokens: 120, seed: "7", sampling } })) {
  process.stdout.write(piece.text);
  result = piece.result ?? result;
}
console.log(`\n(${result.finish_reason}, seed ${result.seed})`);

console.log("--- one that is cancelled after some text");
const call = generation.Generate({ options: { max_tokens: 60000, seed: "8", sampling } });
let length = 0;
try {
  for await (const piece of call) {
    length += piece.text.length;
    if (length >= 100) call.cancel();
  }
} catch (error) {
  if (error.code !== grpc.status.CANCELLED) throw error;
  console.log(`cancelled after ${length} characters`);
}

console.log("--- a session: its state is carried from call to call");
const { session } = await ask(sessions, "CreateSession", { seed: "9" });
for (const prompt of ["JULIET:", "\n\nROMEO:"]) {
  const options = { session_id: session.id, prompt, max_tokens: 60, sampling };
  const answer = await ask(generation, "Complete", { options });
  process.stdout.write(prompt + answer.completions[0].text);
}
const now = await ask(sessions, "GetSession", { session_id: session.id });
console.log(`\n(position ${now.session.position})`);
await ask(sessions, "DeleteSession", { session_id: session.id });

console.log("--- an error");
try {
  await ask(sessions, "GetSession", { session_id: session.id });
} catch (error) {
  const info = infoOf(error);
  console.log(`${grpc.status[error.code]} ${info.reason} of ${info.domain}: ${error.details}`);
}
