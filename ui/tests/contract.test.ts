// The mock answers as openapi.yaml says, and the client's types are generated from it.
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import Ajv2020 from 'ajv/dist/2020';
import addFormats from 'ajv-formats';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { makeServer } from '../mock/server.mjs';

const root = new URL('..', import.meta.url).pathname;
interface Operation { responses: Record<string, { content?: Record<string, { schema: object }> }> }
const api = parse(readFileSync(`${root}openapi.yaml`, 'utf8')) as { paths: Record<string, Record<string, Operation>>; components: object };
const ajv = new Ajv2020({ strict: false, allErrors: true });
addFormats(ajv);
ajv.addSchema({ $id: 'api', components: api.components });

/** The schema with references turned to the registered document. */
const at = (path: string, method: string) => JSON.parse(JSON.stringify(api.paths[path]?.[method]?.responses['200']?.content?.['application/json']?.schema).replaceAll('"#/', '"api#/')) as object;

let server: Server;
let base: string;
beforeAll(async () => {
  server = makeServer({ scene: 'demo' });
  await new Promise<void>((done) => { server.listen(0, '127.0.0.1', done); });
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => { server.closeAllConnections(); server.close(); });

const token = { 'x-csrf-token': 'mock-token', 'content-type': 'application/json' };
const yaml = 'apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: cart, namespace: base}\nspec: {host: cart}\n';
const calls: [string, string, string, object?][] = [
  ['get', '/api/malla/v1/session', ''],
  ['get', '/api/malla/v1/overview', ''],
  ['get', '/api/malla/v1/telemetry/status', ''],
  ['get', '/api/malla/v1/graph', '?view=version&window=60'],
  ['get', '/api/malla/v1/logs', '?limit=20'],
  ['get', '/api/malla/v1/services', ''],
  ['get', '/api/malla/v1/services/{namespace}/{name}', '/api/malla/v1/services/base/order'],
  ['get', '/api/malla/v1/kinds', ''],
  ['get', '/api/malla/v1/objects', ''],
  ['get', '/api/malla/v1/objects/{kind}/{namespace}/{name}', '/api/malla/v1/objects/VirtualService/base/order-vs'],
  ['post', '/api/malla/v1/objects:check', '', { yaml }],
  ['post', '/api/malla/v1/objects:check', '', { yaml: 'a: [' }],
  ['post', '/api/malla/v1/objects:apply', '', { yaml, note: 'why' }],
  ['get', '/api/malla/v1/changes', ''],
  ['post', '/api/malla/v1/changes/{id}/undo', '/api/malla/v1/changes/c7/undo', {}],
  ['get', '/api/malla/v1/gateways', ''],
  ['get', '/api/malla/v1/security', ''],
  ['get', '/api/malla/v1/proxies', ''],
  ['get', '/api/malla/v1/proxies/{namespace}/{pod}/config', '/api/malla/v1/proxies/base/x/config'],
  ['get', '/api/malla/v1/lessons', ''],
  ['post', '/api/malla/v1/lessons/{id}:apply', '/api/malla/v1/lessons/q14:apply', {}],
  ['post', '/api/malla/v1/lessons/{id}:revert', '/api/malla/v1/lessons/q14:revert', {}],
  ['delete', '/api/malla/v1/objects/{kind}/{namespace}/{name}', '/api/malla/v1/objects/Gateway/base/frontend-gw'],
  ['get', '/api/v1/query_range', '?query=sum(rate(istio_requests_total[1m]))&start=0&end=60&step=15'],
  ['get', '/jaeger/api/services', ''],
  ['get', '/jaeger/api/traces', '?service=order.base&limit=3'],
];

describe('the mock', () => {
  it.each(calls)('%s %s conforms', async (method, path, where, body) => {
    const target = where.startsWith('/') ? where : path + where;
    const response = await fetch(base + target, { method: method.toUpperCase(), headers: token, ...(body ? { body: JSON.stringify(body) } : {}) });
    expect(response.status).toBe(200);
    const validate = ajv.compile(at(path, method));
    const value: unknown = await response.json();
    expect(validate(value) ? [] : validate.errors).toEqual([]);
  });

  it('covers every JSON operation of ours', () => {
    const done = new Set(calls.map(([method, path]) => `${method} ${path}`));
    const missing = Object.entries(api.paths).flatMap(([path, ops]) => Object.entries(ops).filter(([, op]) => op.responses?.['200']?.content?.['application/json']).map(([method]) => `${method} ${path}`)).filter((x) => x.includes('/malla/') && !done.has(x));
    expect(missing).toEqual([]);
  });

  it('refuses changes without the token', async () => {
    const response = await fetch(`${base}/api/malla/v1/objects:apply`, { method: 'POST', body: JSON.stringify({ yaml }) });
    expect(response.status).toBe(403);
    expect(((await response.json()) as { error: { code: string } }).error.code).toBe('csrf');
  });
});

it('the generated types are up to date', () => {
  const made = execFileSync('npx', ['openapi-typescript', 'openapi.yaml'], { cwd: root, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  expect(readFileSync(`${root}src/api/schema.d.ts`, 'utf8')).toBe(made);
}, 30_000);
