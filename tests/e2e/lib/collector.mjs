// An OTLP collector over gRPC that reads what comes with OpenTelemetry's own generated code. `spans` is everything that came, each with the
// attributes of its resource; `mode` is how it treats calls: take, or hold (no answer at all).
import { createRequire } from 'node:module';
import grpc from '@grpc/grpc-js';

const require = createRequire(import.meta.url);
const root = require('@opentelemetry/otlp-transformer/build/src/generated/root.js');
const v1 = root.opentelemetry.proto.collector.trace.v1;

const value = (v) => {
  if (v.arrayValue) return v.arrayValue.values.map(value);
  for (const key of ['stringValue', 'boolValue', 'doubleValue']) if (v[key] !== null && v[key] !== undefined && Object.hasOwn(v, key)) return v[key];
  return Number(v.intValue);
};
const attributes = (list) => Object.fromEntries(list.map((a) => [a.key, value(a.value)]));
const hex = (bytes) => Buffer.from(bytes).toString('hex');

export class Collector {
  constructor() { Object.assign(this, { spans: [], metadata: [], held: [], mode: 'take' }); }

  async listen(credentials = undefined) {
    const path = '/opentelemetry.proto.collector.trace.v1.TraceService/Export';
    const method = { path, requestStream: false, responseStream: false,
                     requestDeserialize: (bytes) => v1.ExportTraceServiceRequest.decode(bytes), requestSerialize: (x) => x,
                     responseSerialize: (answer) => Buffer.from(v1.ExportTraceServiceResponse.encode(answer).finish()), responseDeserialize: (x) => x };
    this.server = new grpc.Server();
    this.server.addService({ Export: method }, { Export: (call, callback) => this.take(call, callback) });
    this.port = await new Promise((resolve, reject) => this.server.bindAsync('127.0.0.1:0', credentials ?? grpc.ServerCredentials.createInsecure(),
      (error, port) => (error ? reject(error) : resolve(port))));
    this.endpoint = credentials ? `https://localhost:${this.port}` : `http://127.0.0.1:${this.port}`;
    return this;
  }

  take(call, callback) {
    if (this.mode === 'hold') {
      this.held.push(callback);
      return;
    }
    this.metadata.push(call.metadata.getMap());
    for (const of of call.request.resourceSpans) {
      const resource = attributes(of.resource.attributes);
      for (const s of of.scopeSpans.flatMap((scope) => scope.spans))
        this.spans.push({ name: s.name, kind: s.kind, traceId: hex(s.traceId), id: hex(s.spanId), parent: hex(s.parentSpanId ?? []),
                          state: s.traceState, start: BigInt(s.startTimeUnixNano), end: BigInt(s.endTimeUnixNano),
                          attributes: attributes(s.attributes), status: s.status, resource });
    }
    callback(null, {});
  }

  // The spans of one trace, once it has `n` of them.
  async trace(traceId, n, limitMs = 20000) {
    for (const end = Date.now() + limitMs; Date.now() < end; await new Promise((resolve) => setTimeout(resolve, 20))) {
      const found = this.spans.filter((s) => s.traceId === traceId);
      if (found.length >= n) return found;
    }
    throw new Error(`trace ${traceId}: expected ${n} spans, found ${this.spans.filter((s) => s.traceId === traceId).map((s) => s.name)}`);
  }

  close() { this.server.forceShutdown(); }
}
