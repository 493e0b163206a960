// Writes vectors.json: what Port's side is taken to do, made by JavaScript itself. Run it with Node:
//   node tests/port/vectors.mjs > tests/port/vectors.json
import crypto from "node:crypto";

const clientSecret = "abcdefghijklmnopqrstuvwxyz0123456789-a-longer-client-secret";
const timestamp = "1700000000";

const signature = (body) =>
  "v1," + crypto.createHmac("sha256", clientSecret).update(`${timestamp}.${body}`).digest("base64");

const context = { runId: "wfnr_1" };
const messages = {
  plain: { context, payload: { type: "a", service: "checkout" } },
  numbers: { context, payload: { small: 1e-7, big: 1e21, whole: 1.0, third: 1 / 3, max: Number.MAX_SAFE_INTEGER } },
  "names like integers": { context, payload: { b: 1, 10: "ten", 2: "two", "01": "no index" } },
  texts: { context, payload: [{ letters: "é \u2028 \u007f 😀", escaped: '\t\n\b\f\r\u0000\u001b "q" \\ /' }] },
  "names inside": { context, payload: { headers: { "X-Port-Signature": "v1,x", "X-Port-Timestamp": "1" } } },
  "an empty payload": { context, payload: {} },
};
const signatures = Object.entries(messages).flatMap(([name, message]) => {
  const stays = { headers: {}, ...message };
  const both = { "X-Port-Signature": signature(JSON.stringify(stays)), "X-Port-Timestamp": timestamp };
  const last = { "X-Port-Timestamp": timestamp, "X-Port-Signature": signature(JSON.stringify(message)) };
  const other = { headers: { "X-Other": "é" }, ...message };
  const more = { "X-Port-Timestamp": timestamp, "X-Other": "é", "X-Port-Signature": signature(JSON.stringify(other)) };
  return [
    { name: `${name}, headers stay`, message: JSON.stringify({ ...stays, headers: both }) },
    { name: `${name}, headers go`, message: JSON.stringify({ ...message, headers: last }) },
    { name: `${name}, other headers`, message: JSON.stringify({ ...other, headers: more }) },
  ];
});

const encrypted = (text, secret, iv) => {
  const key = Buffer.from(secret, "utf8").subarray(0, 32);
  const cipher = crypto.createCipheriv("aes-256-gcm", key, Buffer.from(iv, "hex"));
  const ciphertext = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return Buffer.concat([Buffer.from(iv, "hex"), ciphertext, cipher.getAuthTag()]).toString("base64");
};
const secrets = [
  [clientSecret, "000102030405060708090a0b0c0d0e0f", "the plain text"],
  [clientSecret, "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 'pässwörd "quoted" 🔑\nsecond line'],
  [clientSecret, "00000000000000000000000000000000", ""],
  [clientSecret.slice(0, 32), "0102030405060708090a0b0c0d0e0f10", "exactly 32 bytes of key"],
  ["schlüssel-".repeat(5), "0102030405060708090a0b0c0d0e0f10", "bytes, not letters"],
].map(([secret, iv, text]) => ({ secret, text, encrypted: encrypted(text, secret, iv) }));

console.log(JSON.stringify({ clientSecret, timestamp, signatures, secrets }, null, 2));
