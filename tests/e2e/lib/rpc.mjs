// The engine's services for @grpc/grpc-js, and what tests do with calls.
import assert from 'node:assert/strict';
import path from 'node:path';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import { root } from './harness.mjs';

const definition = loader.loadSync(['bitnet/v1/inference.proto', 'bitnet/v1/models.proto', 'bitnet/v1/admin.proto'],
                                   { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true, includeDirs: [path.join(root, 'proto')] });
const api = grpc.loadPackageDefinition(definition);
export const { status } = grpc;

export function clients(target) {
  const make = (Service) => new Service(target, grpc.credentials.createInsecure(), { 'grpc.use_local_subchannel_pool': 1 });
  return { inference: make(api.bitnet.v1.InferenceService), models: make(api.bitnet.v1.ModelService), admin: make(api.bitnet.v1.AdminService) };
}

export const unary = (client, method, request = {}, options = {}) => new Promise((resolve, reject) =>
  client[method](request, new grpc.Metadata(), options, (error, answer) => (error ? reject(error) : resolve(answer))));

// All events of a stream and how it ended: { events, error }.
export const stream = (call) => new Promise((resolve) => {
  const events = [];
  call.on('data', (event) => events.push(event)).on('error', (error) => resolve({ events, error })).on('end', () => resolve({ events, error: null }));
});

// A load or swap to its end: its progress, its result and its error, if any.
export async function change(models, method, request) {
  const { events, error } = await stream(models[method](request));
  return { progress: events.filter((e) => e.event === 'progress').map((e) => e.progress), result: events.find((e) => e.event === 'result')?.result, error };
}
export async function changed(models, method, request) {
  const { progress, result, error } = await change(models, method, request);
  assert.equal(error, null, `${method} ${JSON.stringify(request)}: ${error?.details}`);
  return { progress, result };
}

// Fields of a protobuf message: [number, bytes] of those that have a length.
function fields(bytes) {
  const list = [];
  for (let at = 0; at < bytes.length;) {
    const varint = () => { let n = 0, shift = 0; for (; bytes[at] & 0x80; shift += 7) n += (bytes[at++] & 0x7f) * 2 ** shift; return n + bytes[at++] * 2 ** shift; };
    const key = varint(), wire = key & 7;
    if (wire === 0) varint();
    else if (wire !== 2) at += wire === 1 ? 8 : 4;
    else { const n = varint(); list.push([key >> 3, bytes.subarray(at, (at += n))]); }
  }
  return list;
}
const field = (bytes, number) => fields(bytes).find(([n]) => n === number)?.[1] ?? Buffer.alloc(0);

// The code's name and the field of an error, as google.rpc.Status has them in its details.
export function detailsOf(error) {
  const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [], out = {};
  for (const [number, any] of fields(bytes ?? Buffer.alloc(0))) {
    if (number !== 3) continue;
    const type = field(any, 1).toString(), value = field(any, 2);
    if (type.endsWith('ErrorInfo')) out.code = field(value, 1).toString();
    if (type.endsWith('BadRequest')) out.field = field(field(value, 1), 1).toString();
  }
  return out;
}

export async function refused(promise, code, { grpc: grpcStatus, field: at, pattern } = {}) {
  const error = await promise.then((x) => (x && 'error' in x ? x.error : null), (e) => e);
  assert.ok(error, `expected ${code}, and the call succeeded`);
  const details = detailsOf(error);
  assert.equal(details.code, code, error.details);
  if (grpcStatus !== undefined) assert.equal(error.code, grpcStatus);
  if (at) assert.equal(details.field, at);
  if (pattern) assert.match(error.details, pattern);
  return error;
}
