// A stand-in for the console's server: serves `dist` and a living fake of openapi.yaml, all in memory.
//   node mock/server.mjs [--port 20009] [--scene demo|big|empty|hostile] [--dist DIR]
import { createReadStream, existsSync, readFileSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments, stringify } from 'yaml';
import { initial, lessons } from './lessons.mjs';
import { clientLine, hex, linesOf, makeTrace, makeWorld, rnd } from './world.mjs';

const arg = (name, fallback) => {
  const at = process.argv.indexOf(`--${name}`);
  return at > 0 ? process.argv[at + 1] : fallback;
};
/** No wider than the real server's. */
export const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const kinds = JSON.parse(readFileSync(new URL('./kinds.json', import.meta.url), 'utf8'));
const mime = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.txt': 'text/plain; charset=utf-8', '.json': 'application/json' };

/** Fields the schema does not know, wrong types, values that are not allowed: [path, message]. */
function violations(schema, value, path, out) {
  if (!schema) return;
  if (schema.enum && !schema.enum.includes(value)) out.push([path, `must be one of ${schema.enum.filter((x) => x !== '').join(', ')}`]);
  if (schema.type === 'object' && value !== null && typeof value === 'object' && !Array.isArray(value)) {
    for (const [k, v] of Object.entries(value)) {
      const at = path ? `${path}.${k}` : k;
      if (schema.properties?.[k]) violations(schema.properties[k], v, at, out);
      else if (typeof schema.additionalProperties === 'object') violations(schema.additionalProperties, v, at, out);
      else if (schema.properties && !schema['x-kubernetes-preserve-unknown-fields']) out.push([at, 'is not a known field']);
    }
    for (const k of schema.required ?? []) if (!(k in value)) out.push([path ? `${path}.${k}` : k, 'is required']);
  } else if (schema.type === 'array') {
    if (!Array.isArray(value)) out.push([path, 'must be a list']);
    else value.forEach((v, i) => violations(schema.items, v, `${path}[${i}]`, out));
  } else if (schema.type === 'object') out.push([path, 'must be an object']);
  else if (schema.type === 'string' && typeof value !== 'string') out.push([path, `must be a string, not ${JSON.stringify(value)}`]);
  else if (schema.type === 'integer' && !Number.isInteger(value)) out.push([path, `must be a whole number, not ${JSON.stringify(value)}`]);
}

class Refusal extends Error {
  constructor(status, code, message, extra = {}) {
    super(message);
    Object.assign(this, { status, code, extra });
  }
}

export function makeServer({ scene = 'demo', dist = fileURLToPath(new URL('../dist', import.meta.url)) } = {}) {
  const world = makeWorld(scene);
  const objects = new Map();
  const changes = [];
  const logs = [];
  const listeners = new Set();
  const tails = new Set();
  const timers = [];
  let serial = 0;
  const total = () => world.pods.length;
  const keyOf = (o) => `${o.kind}/${o.namespace}/${o.name}`;

  const emit = (event, data) => { for (const res of listeners) res.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`); };

  function findingsOf(o) {
    const spec = o.object.spec ?? {};
    const out = [];
    const hosts = o.kind === 'DestinationRule' ? [['spec.host', spec.host]] : o.kind === 'VirtualService' ? (spec.http ?? []).flatMap((h, i) => (h.route ?? []).map((r, j) => [`spec.http[${i}].route[${j}].destination.host`, r.destination?.host])) : [];
    for (const [path, host] of hosts) {
      const name = String(host ?? '').split('.')[0];
      if (host && !world.byName.has(name) && !String(host).includes('*')) out.push({ code: 'IST0101', level: 'Error', message: `Referenced host not found: "${host}"`, path, object: `${o.kind} ${o.namespace}/${o.name}` });
    }
    if (o.kind === 'DestinationRule' && o.name === 'user') out.push({ code: 'MAL0006', level: 'Info', message: 'The pool counts for each calling proxy by itself.', path: 'spec.trafficPolicy.connectionPool', object: `${o.kind} ${o.namespace}/${o.name}` });
    if (spec.http?.some((h) => h.corsPolicy)) out.push({ code: 'MAL0001', level: 'Warning', message: 'Field corsPolicy is set and has no effect.', path: 'spec.http[0].corsPolicy', object: `${o.kind} ${o.namespace}/${o.name}` });
    return out;
  }

  const shown = (object) => stringify({ apiVersion: object.apiVersion, kind: object.kind, metadata: { name: object.metadata?.name, namespace: object.metadata?.namespace, ...(object.metadata?.labels ? { labels: object.metadata.labels } : {}) }, ...(object.spec ? { spec: object.spec } : {}) }, { lineWidth: 0 });

  function read(yaml) {
    const errors = [];
    const found = [];
    for (const doc of parseAllDocuments(yaml)) {
      if (doc.errors.length > 0) {
        for (const e of doc.errors) errors.push({ line: e.linePos?.[0]?.line ?? 1, path: '', message: e.message.split('\n')[0] });
        continue;
      }
      const object = doc.toJS();
      if (object === null || object === undefined) continue;
      const kind = kinds.find((k) => k.kind === object.kind);
      const core = ['Namespace', 'Deployment', 'Service', 'ConfigMap', 'ServiceAccount'].includes(object.kind);
      if (!kind && !core) errors.push({ path: 'kind', message: `no kind ${JSON.stringify(object.kind ?? null)} is known` });
      if (!object.metadata?.name) errors.push({ path: 'metadata.name', message: 'is required' });
      if (kind) {
        const out = [];
        violations(kind.schema.properties.spec, object.spec ?? {}, 'spec', out);
        for (const [path, message] of out) errors.push({ path, message });
      }
      found.push({ kind: object.kind, namespace: object.metadata?.namespace ?? 'default', name: object.metadata?.name ?? '', object, managed: Boolean(kind) });
    }
    return { errors, found };
  }

  function progress(entry) {
    entry.written = Date.now();
    entry.acked = 0;
    const all = total();
    const step = () => {
      entry.acked = Math.min(all, entry.acked + Math.max(1, Math.ceil(all / 5)));
      const done = entry.acked >= all;
      if (done) entry.ms = Date.now() - entry.written;
      emit('object', { kind: entry.kind, namespace: entry.namespace, name: entry.name, action: 'applied', active: activeOf(entry) });
      if (!done) timers.push(setTimeout(step, 60 + Math.random() * 90));
      else emit('lesson', { id: 'q3', light: 'green' });
    };
    entry.ms = null;
    timers.push(setTimeout(step, 90));
  }
  const activeOf = (e) => (kinds.find((k) => k.kind === e.kind)?.group.startsWith('networking') || e.kind.endsWith('Policy') || e.kind.endsWith('Authentication') ? { acked: e.acked, total: total(), ms: e.ms } : null);

  function record(action, o, before, after, who, note, at = Date.now()) {
    serial += 1;
    const change = { id: `c${serial}`, time: new Date(at).toISOString(), who, action, kind: o.kind, namespace: o.namespace, name: o.name, before, after, ...(note ? { note } : {}) };
    changes.unshift(change);
    emit('change', { id: change.id, kind: o.kind, namespace: o.namespace, name: o.name, who });
    return change.id;
  }

  function write(found, who, note, at) {
    return found.filter((f) => f.managed).map((f) => {
      const key = keyOf(f);
      const before = objects.get(key);
      f.object.metadata.namespace ??= f.namespace;
      const entry = { ...f, yaml: shown(f.object), created: before?.created ?? new Date(at ?? Date.now()).toISOString(), manager: who === 'admin' ? 'malla-console' : 'kubectl', acked: 0, ms: null };
      objects.set(key, entry);
      if (at) Object.assign(entry, { acked: total(), ms: 100 + Math.round(rnd(key) * 200) });
      else progress(entry);
      return record(before ? 'update' : 'create', f, before?.yaml ?? null, entry.yaml, who, note, at);
    });
  }
  function remove(key, who) {
    const o = objects.get(key);
    if (!o) throw new Refusal(404, 'not_found', `there is no ${key}`);
    objects.delete(key);
    const id = record('delete', o, o.yaml, null, who);
    emit('object', { kind: o.kind, namespace: o.namespace, name: o.name, action: 'deleted', active: null });
    return id;
  }

  // The past: rules applied over the last hours, a quarter of an hour of logs.
  if (scene === 'demo') {
    initial.forEach((yaml, i) => write(read(yaml).found, i % 2 ? 'admin' : 'kubectl', i === 2 ? 'Try the new list on half of the visitors' : '', Date.now() - (initial.length - i) * 47 * 60_000));
    write(read('apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: recommend-vs, namespace: base}\nspec:\n  hosts: [recommend]\n  http:\n    - route:\n        - destination: {host: recommend}\n      corsPolicy: {allowOrigins: [{exact: "*"}]}\n').found, 'kubectl', '', Date.now() - 25 * 60_000);
  }
  if (scene === 'hostile') {
    const object = { apiVersion: 'networking.istio.io/v1', kind: 'VirtualService', metadata: { name: world.evil, namespace: world.evil2 }, spec: { hosts: [world.evil], http: [{ route: [{ destination: { host: world.evil2 } }] }] } };
    write([{ kind: 'VirtualService', namespace: world.evil2, name: world.evil, object, managed: true }], world.evil, world.evil2, Date.now() - 1000);
  }
  const addTrace = (index) => {
    const made = makeTrace(world, index);
    const lines = linesOf(world, made);
    if (scene === 'hostile') for (const l of lines) Object.assign(l, { path: `/${world.evil}`, userAgent: world.evil2, workload: world.evil, source: world.evil });
    return lines;
  };
  let cursorTrace = Math.floor(Date.now() / 2000);
  let clientIndex = 0;
  const push = (lines) => {
    for (const line of lines) {
      // Lines arrive a little out of order, and are kept in order.
      let at = logs.length;
      while (at > 0 && logs[at - 1].time > line.time) at -= 1;
      logs.splice(at, 0, line);
      for (const tail of tails) if (tail.match(line)) tail.res.write(`event: line\ndata: ${JSON.stringify(line)}\n\n`);
    }
    if (logs.length > 20_000) logs.splice(0, 5000);
  };
  if (scene === 'demo' || scene === 'hostile') {
    const past = [];
    for (let i = cursorTrace - 450; i <= cursorTrace - 2; i += 1) past.push(...addTrace(i));
    for (let i = 0; i < 900; i += 1) {
      const line = clientLine(world, i, Date.now() - i * 1000, objects);
      if (line) past.push(line);
    }
    past.sort((a, b) => (a.time < b.time ? -1 : 1));
    push(past);
    timers.push(setInterval(() => {
      const now = Math.floor(Date.now() / 2000);
      for (; cursorTrace < now; cursorTrace += 1) push(addTrace(cursorTrace - 1));
      clientIndex += 1;
      const line = clientLine(world, 10_000 + clientIndex, Date.now(), objects);
      if (line) push([line]);
    }, 400));
    timers.push(setInterval(() => emit('proxy', { namespace: 'base', pod: world.pods[0]?.pod ?? '' }), 9000));
  }

  const matcher = (query) => {
    const get = (k) => query.get(k) ?? '';
    const words = get('text').toLowerCase().split(/\s+/).filter(Boolean);
    return (l) =>
      (!get('namespace') || l.namespace === get('namespace')) && (!get('workload') || l.workload.includes(get('workload'))) && (!get('pod') || l.pod === get('pod')) &&
      (!get('code') || (get('code').endsWith('xx') ? String(l.code)[0] === get('code')[0] : String(l.code) === get('code'))) && (!get('flag') || (get('flag') === 'any' ? l.flags.length > 0 : l.flags.includes(get('flag')))) &&
      (!get('traceId') || l.traceId === get('traceId')) && words.every((w) => `${l.path} ${l.authority} ${l.userAgent} ${l.requestId} ${l.upstreamHost} ${l.destination}`.toLowerCase().includes(w));
  };

  function overview() {
    const now = Math.floor(Date.now() / 5000) * 5;
    const at = (t) => {
      const sum = world.services.reduce((s, x) => s + world.totals(x, objects, t).rps, 0);
      const bad = world.services.reduce((s, x) => { const v = world.totals(x, objects, t); return s + v.rps * v.errorShare; }, 0);
      return { t, rps: sum, errorShare: sum > 0 ? bad / sum : 0, p99: sum > 0 ? 118 + 30 * Math.sin(t / 41) + rnd('p', Math.floor(t / 10)) * 30 : null };
    };
    const series = Array.from({ length: 121 }, (_, i) => at(now - (120 - i) * 5));
    const last = series[series.length - 1];
    return {
      signals: { rps: last.rps, errorShare: last.errorShare, p50: world.services.length ? 9.4 : null, p90: world.services.length ? 38 : null, p99: last.p99, series },
      worst: world.services.map((s) => ({ namespace: s.namespace, name: s.name, ...world.totals(s, objects) })).filter((s) => s.rps > 0).sort((a, b) => b.errorShare - a.errorShare || b.p99 - a.p99).slice(0, 7),
      changes: changes.slice(0, 10),
      proxies: { total: total(), synced: Math.max(0, total() - (scene === 'demo' ? 1 : 0)), stale: scene === 'demo' ? 1 : 0, versions: total() ? { 'malla 0.1.0': total() - 2, 'envoy 1.40.0': 2 } : {} },
      certificates: identities().sort((a, b) => (a.expires < b.expires ? -1 : 1)).slice(0, 10).map(({ pod, namespace, expires }) => ({ pod, namespace, expires })),
      findings: [...objects.values()].flatMap(findingsOf),
      collector: { bytes: 48_213_004, dropped: { spans: 12, lines: 0, samples: 0 } },
    };
  }
  const identities = () => world.pods.slice(0, 400).map((p) => ({ pod: p.pod, namespace: p.namespace, spiffe: `spiffe://cluster.local/ns/${p.namespace}/sa/${p.s.gateway ? 'istio-ingressgateway' : 'default'}`, expires: new Date((world.start + 3600 * (p.s.gateway ? 2 : 3 + rnd(p.pod) * 20)) * 1000).toISOString(), serial: hex(32, 'serial', p.pod) }));

  function service(ns, name) {
    const s = world.services.find((x) => x.namespace === ns && x.name === name);
    if (!s) throw new Refusal(404, 'not_found', `there is no service ${name} in namespace ${ns}`);
    const t = world.totals(s, objects);
    const mine = [...objects.values()].filter((o) => o.namespace === ns);
    const about = (o) => [...(o.object.spec?.hosts ?? []), o.object.spec?.host].some((h) => String(h ?? '').split('.')[0] === name);
    const ref = (o) => ({ kind: o.kind, namespace: o.namespace, name: o.name, ...(o.kind === 'VirtualService' ? { summary: `${o.object.spec.http?.length ?? 0} HTTP routes` } : {}) });
    const parts = s.versions.length === 1 ? [1] : [0.62, 0.38];
    const dr = mine.find((o) => o.kind === 'DestinationRule' && about(o));
    return {
      service: world.summary(s, objects),
      versions: s.versions.map((v, i) => ({ name: v, labels: v === '-' ? {} : { version: v }, workloads: [s.gateway ? name : `${name}-${v}`], weight: t.rps > 0 ? parts[i] : 0, rps: t.rps * parts[i], errorShare: t.errorShare, p99: t.p99 })),
      instances: world.pods.filter((p) => p.s === s).map((p) => ({ pod: p.pod, ip: p.ip, node: 'malla-node', region: 'north', zone: rnd(p.pod) < 0.5 ? 'north-a' : 'north-b', ready: true, version: p.v, proxy: 'malla 0.1.0' })),
      destinationRule: dr ? ref(dr) : null,
      virtualServices: mine.filter((o) => o.kind === 'VirtualService' && about(o)).map(ref),
      policies: mine.filter((o) => ['AuthorizationPolicy', 'PeerAuthentication', 'RequestAuthentication'].includes(o.kind)).map(ref),
    };
  }

  function prom(query) {
    const start = Number(query.get('start'));
    const end = Number(query.get('end'));
    const step = Number(query.get('step')) || 15;
    if (scene === 'empty') return { status: 'success', data: { resultType: 'matrix', result: [] } };
    const text = query.get('query') ?? '';
    const label = (name) => new RegExp(`${name}="([^"]*)"`).exec(text)?.[1];
    const who = label('destination_service_name') ?? label('destination_workload')?.replace(/-v\d$/, '') ?? label('destination_canonical_service') ?? label('source_workload') ?? '';
    const from = label('source_canonical_service') ?? label('source_workload');
    const s = world.byName.get(who);
    const base = from && from !== who ? (world.byName.get(from)?.calls.find(([to]) => to === who)?.[1] ?? 3) : null;
    const rps = (t) => (base !== null ? world.rate(from, who, base, t) : s ? world.totals(s, objects, t).rps : 0);
    const series = (metric, f) => {
      const values = [];
      for (let t = start; t <= end; t += step) values.push([t, String(f(t))]);
      return { metric, values };
    };
    const wrap = (result) => ({ status: 'success', data: { resultType: 'matrix', result } });
    const q = /histogram_quantile\(([\d.]+)/.exec(text);
    if (q) return wrap([series({}, (t) => ((s?.calls.length ? 14 : 5) + (s ? world.slow(who, objects) : 0)) * { 0.5: 1, 0.9: 2.1, 0.99: 4.6 }[q[1]] * (1 + 0.2 * Math.sin(t / 53 + Number(q[1]) * 9) + rnd(who, q[1], Math.floor(t / 15)) * 0.15))]);
    if (text.includes('by (response_code)')) {
      const err = (t) => world.errors(who, t, objects);
      return wrap([series({ response_code: '200' }, (t) => rps(t) * (1 - err(t))), ...(err(end) > 0 ? [series({ response_code: '503' }, (t) => rps(t) * err(t))] : [])]);
    }
    if (text.includes('by (destination_version)')) return wrap((s?.versions ?? ['v1']).map((v, i, all) => series({ destination_version: v }, (t) => rps(t) * (all.length === 1 ? 1 : i === 0 ? 0.62 : 0.38) * (1 + 0.1 * Math.sin(t / 31 + i)))));
    return wrap([series({}, (t) => rps(t) * 1840)]);
  }

  function jaeger(path, query) {
    const names = ['istio-ingressgateway.istio-system', 'frontend.base', 'product.base', 'cart.base', 'order.base', 'stock.base', 'user.base'];
    if (path === '/jaeger/api/services') return { data: scene === 'empty' ? [] : names };
    const ops = /^\/jaeger\/api\/services\/(.+)\/operations$/.exec(path);
    if (ops) return { data: ['/order', '/product', '/cart', '/stock'] };
    const now = Math.floor(Date.now() / 2000) - 1;
    const one = /^\/jaeger\/api\/traces\/([0-9a-f]+)$/.exec(path);
    const hostile = (trace) => {
      if (scene === 'hostile') for (const s of trace.spans) Object.assign(s, { operationName: world.evil, tags: [...s.tags, { key: world.evil, type: 'string', value: world.evil2 }] });
      return trace;
    };
    if (one) {
      for (let i = now; i > now - 45_000 && scene !== 'empty'; i -= 1) if (hex(32, 'trace', i) === one[1]) return { data: [hostile(makeTrace(world, i).trace)] };
      throw new Refusal(404, 'not_found', 'trace not found');
    }
    const out = [];
    const limit = Number(query.get('limit') ?? 20);
    const end = Number(query.get('end') || Date.now() * 1000) / 1000;
    const from = Number(query.get('start') || 0) / 1000;
    const unit = { us: 1, µs: 1, ms: 1e3, s: 1e6, m: 6e7 };
    const least = /^([\d.]+)(us|µs|ms|s|m)$/.exec(query.get('minDuration') ?? '');
    const tags = JSON.parse(query.get('tags') ?? '{}');
    for (let i = Math.min(now, Math.floor(end / 2000)); i * 2000 > from && out.length < limit && i > now - 45_000 && scene !== 'empty'; i -= 1) {
      const made = makeTrace(world, i);
      const services = Object.values(made.trace.processes).map((p) => p.serviceName);
      if (!services.includes(query.get('service')) || (tags.error === 'true' && !made.failed) || (least && made.total < Number(least[1]) * unit[least[2]])) continue;
      if (query.get('operation') && !made.trace.spans.some((s) => s.operationName === query.get('operation'))) continue;
      out.push(hostile(made.trace));
    }
    return { data: out };
  }

  function configDump(ns, pod) {
    const type = (x) => `type.googleapis.com/envoy.admin.v3.${x}`;
    const names = world.services.map((s) => `outbound|${s.port}||${s.name}.${s.namespace}.svc.cluster.local`);
    return {
      configs: [
        { '@type': type('BootstrapConfigDump'), bootstrap: { node: { id: `sidecar~10.244.1.17~${pod}.${ns}~${ns}.svc.cluster.local`, cluster: `${ns}.${ns}`, metadata: { NAMESPACE: ns, NAME: pod } }, admin: { address: { socket_address: { address: '127.0.0.1', port_value: 15000 } } } }, last_updated: new Date().toISOString() },
        { '@type': type('ClustersConfigDump'), version_info: hex(16, 'cds'), dynamic_active_clusters: names.map((name) => ({ version_info: hex(16, name), cluster: { '@type': 'type.googleapis.com/envoy.config.cluster.v3.Cluster', name, type: 'EDS', connect_timeout: '10s', lb_policy: 'LEAST_REQUEST' } })) },
        { '@type': type('ListenersConfigDump'), version_info: hex(16, 'lds'), dynamic_listeners: [{ name: 'virtualOutbound', active_state: { listener: { name: 'virtualOutbound', address: { socket_address: { address: '0.0.0.0', port_value: 15001 } }, filter_chains: [{ filters: [{ name: 'envoy.filters.network.tcp_proxy' }] }] } } }, { name: 'virtualInbound', active_state: { listener: { name: 'virtualInbound', address: { socket_address: { address: '0.0.0.0', port_value: 15006 } } } } }] },
        { '@type': type('RoutesConfigDump'), dynamic_route_configs: [{ route_config: { name: '7000', virtual_hosts: world.services.map((s) => ({ name: `${s.name}.${s.namespace}.svc.cluster.local:${s.port}`, domains: [`${s.name}.${s.namespace}.svc.cluster.local`, s.name], routes: [{ match: { prefix: '/' }, route: { cluster: names[0], timeout: '0s' } }] })) } }] },
        { '@type': type('SecretsConfigDump'), dynamic_active_secrets: [{ name: 'default', secret: { tls_certificate: { private_key: { inline_bytes: 'W3JlZGFjdGVkXQ==' } } } }] },
      ],
    };
  }

  const ref = (o) => ({ kind: o.kind, namespace: o.namespace, name: o.name });
  const routes = {
    'GET /session': () => ({ user: 'admin', csrfToken: 'mock-token', version: '0.1.0', cluster: scene === 'hostile' ? world.evil : 'demo', namespaceRoot: 'istio-system' }),
    'GET /overview': overview,
    'GET /graph': ({ query }) => world.graph({ view: query.get('view') ?? 'service', window: query.get('window') ?? 60, end: query.get('end') ? Number(query.get('end')) : undefined, namespaces: query.get('namespaces') ?? '' }, objects),
    'GET /telemetry/status': () => {
      const signal = (bytes, received, dropped = 0) => ({ bytes, received, dropped, failed: 0, unsafeInMemory: 0, queuedBytes: 0 });
      const up = world.pods.length;
      return { state: 'open', scrapeInterval: 5, targets: up, targetsUp: up, logStreams: up, series: up * 40, metrics: signal(8_213_004, 1_482_113), spans: signal(22_000_123, 90_412, 12), logs: signal(18_400_960, logs.length) };
    },
    'GET /services': () => world.services.map((s) => world.summary(s, objects)),
    'GET /services/*/*': ({ parts }) => service(parts[0], parts[1]),
    'GET /kinds': () => kinds,
    'GET /objects': ({ query }) => [...objects.values()].filter((o) => (!query.get('kind') || o.kind === query.get('kind')) && (!query.get('namespace') || o.namespace === query.get('namespace'))).map((o) => ({ ...ref(o), conditions: conditions(o), findings: findingsOf(o), active: activeOf(o), created: o.created, manager: o.manager })),
    'GET /objects/*/*/*': ({ parts }) => {
      const o = objects.get(parts.join('/'));
      if (!o) throw new Refusal(404, 'not_found', `there is no ${parts[0]} ${parts[1]}/${parts[2]}`);
      return { object: o.object, yaml: o.yaml, conditions: conditions(o), findings: findingsOf(o), active: activeOf(o) };
    },
    'DELETE /objects/*/*/*': ({ parts }) => ({ changes: [remove(parts.join('/'), 'admin')] }),
    'POST /objects:check': ({ body }) => {
      const { errors, found } = read(String(body.yaml ?? ''));
      const before = found.map((f) => objects.get(keyOf(f))?.yaml).filter(Boolean).join('---\n');
      return { ok: errors.length === 0, errors, findings: found.flatMap(findingsOf), diff: { before, after: found.map((f) => shown(f.object)).join('---\n') } };
    },
    'POST /objects:apply': ({ body }) => {
      const { errors, found } = read(String(body.yaml ?? ''));
      if (errors.length > 0) throw new Refusal(422, 'invalid', `${errors[0].path}: ${errors[0].message}`, { field: errors[0].path });
      return { changes: write(found, 'admin', body.note) };
    },
    'GET /changes': ({ query }) => changes.filter((c) => ['kind', 'namespace', 'name'].every((k) => !query.get(k) || c[k] === query.get(k))),
    'POST /changes/*/undo': ({ parts }) => {
      const c = changes.find((x) => x.id === parts[0]);
      if (!c) throw new Refusal(404, 'not_found', `there is no change ${parts[0]}`);
      return { changes: c.before ? write(read(c.before).found, 'admin', `undo of ${c.id}`) : [remove(keyOf(c), 'admin')] };
    },
    'GET /gateways': () => [...objects.values()].filter((o) => o.kind === 'Gateway').map((o) => {
      const gw = world.services.find((s) => s.gateway);
      return {
        namespace: o.namespace, name: o.name, selector: o.object.spec?.selector ?? {}, addresses: ['http://127.0.0.1:8080'],
        servers: (o.object.spec?.servers ?? []).map((s) => ({ port: s.port?.number ?? 0, protocol: s.port?.protocol ?? '', name: s.port?.name ?? '', hosts: s.hosts ?? [], open: true, tls: s.tls ? { mode: s.tls.mode ?? 'PASSTHROUGH', ...(s.tls.credentialName ? { credential: s.tls.credentialName, expires: new Date(Date.now() + 40 * 864e5).toISOString() } : {}), redirect: Boolean(s.tls.httpsRedirect) } : null })),
        pods: world.pods.filter((p) => p.s.gateway).map((p) => `${p.namespace}/${p.pod}`), virtualServices: [...objects.values()].filter((v) => v.kind === 'VirtualService' && (v.object.spec?.gateways ?? []).some((g) => g === `${o.namespace}/${o.name}` || g === o.name)).map(ref),
        ...(gw ? world.totals(gw, objects) : { rps: 0, errorShare: 0, p99: null }), findings: findingsOf(o),
      };
    }),
    'GET /security': () => ({
      mtls: [...new Map(world.pods.map((p) => [`${p.namespace}/${p.workload}`, p])).values()].map((p) => {
        const pa = [...objects.values()].find((o) => o.kind === 'PeerAuthentication' && o.namespace === p.namespace);
        return { namespace: p.namespace, workload: p.workload, mode: pa?.object.spec?.mtls?.mode ?? 'PERMISSIVE', from: pa ? `${pa.namespace}/${pa.name}` : 'default' };
      }),
      policies: [...objects.values()].filter((o) => ['PeerAuthentication', 'RequestAuthentication', 'AuthorizationPolicy'].includes(o.kind)).map((o) => ({ ...ref(o), ...(o.kind === 'AuthorizationPolicy' ? { action: o.object.spec?.action ?? 'ALLOW' } : {}), scope: 'namespace', summary: o.kind === 'PeerAuthentication' ? `mtls ${o.object.spec?.mtls?.mode}` : `${o.object.spec?.rules?.length ?? 0} rules` })),
      identities: identities(),
    }),
    'GET /proxies': () => world.pods.map((p, i) => ({
      pod: p.pod, namespace: p.namespace, kind: p.s.gateway ? 'gateway' : 'sidecar', version: i === 3 ? 'envoy 1.40.0' : 'malla 0.1.0', connectedTo: 'istiod-6d9f7c5b8-x2x7q',
      sync: { CDS: 'SYNCED', EDS: 'SYNCED', LDS: 'SYNCED', RDS: i === 5 && scene === 'demo' ? 'STALE' : p.s.gateway ? 'SYNCED' : 'SYNCED', SDS: i % 7 === 6 ? 'NOT SENT' : 'SYNCED' }, memoryBytes: 6_100_000 + Math.floor(rnd(p.pod) * 3_000_000),
    })),
    'GET /proxies/*/*/config': ({ parts }) => configDump(parts[0], parts[1]),
    'GET /lessons': () => (scene === 'empty' ? [] : lessons.map(({ check, ...x }) => ({ ...x, source: undefined, ...check(objects) }))),
    'POST /lessons/*:apply': ({ parts }) => ({ changes: write(read(lessonOf(parts[0]).yaml).found, 'admin', `lesson ${parts[0]}`) }),
    'POST /lessons/*:revert': ({ parts }) => ({ changes: read(lessonOf(parts[0]).yaml).found.filter((f) => objects.has(keyOf(f))).map((f) => remove(keyOf(f), 'admin')) }),
    'GET /logs': ({ query }) => {
      const match = matcher(query);
      const from = Number(query.get('from') ?? 0) * 1000;
      const to = Number(query.get('to') ?? Infinity) * 1000;
      const limit = Number(query.get('limit') ?? 200);
      const skip = Number(query.get('cursor') ?? 0);
      const all = logs.filter((l) => Date.parse(l.time) >= from && Date.parse(l.time) <= to && match(l)).reverse();
      return { lines: all.slice(skip, skip + limit), cursor: skip + limit < all.length ? String(skip + limit) : null };
    },
  };
  const lessonOf = (id) => {
    const found = lessons.find((x) => x.id === id);
    if (!found) throw new Refusal(404, 'not_found', `there is no lesson ${id}`);
    return found;
  };
  const conditions = (o) => [{ type: 'Reconciled', status: o.acked >= total() ? 'True' : 'False', reason: o.acked >= total() ? 'Active' : 'Waiting', message: `active on ${o.acked} of ${total()} proxies` }, { type: 'Honoured', status: findingsOf(o).some((f) => f.code === 'MAL0001') ? 'False' : 'True', reason: 'Checked', message: '' }];

  function route(method, path) {
    for (const [pattern, run] of Object.entries(routes)) {
      const [m, shape] = pattern.split(' ');
      if (m !== method) continue;
      const re = new RegExp(`^${shape.replace(/[.:]/g, '\\$&').replace(/\*/g, '([^/]+?)')}$`);
      const found = re.exec(path);
      if (found) return { run, parts: found.slice(1).map(decodeURIComponent) };
    }
    return null;
  }

  function stream(res, set, entry) {
    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    res.write(': hello\n\n');
    set.add(entry);
    res.on('close', () => set.delete(entry));
  }
  const json = (res, status, value) => {
    res.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store' });
    res.end(JSON.stringify(value));
  };

  function file(path, res) {
    let target = normalize(join(dist, path));
    if (!target.startsWith(dist) || !existsSync(target) || !statSync(target).isFile()) {
      if (path.startsWith('/assets/')) { res.writeHead(404); return res.end(); }
      target = join(dist, 'index.html');
    }
    res.writeHead(200, { 'content-type': mime[extname(target)] ?? 'application/octet-stream', 'content-security-policy': csp, 'x-content-type-options': 'nosniff', 'cache-control': target.includes('/assets/') ? 'max-age=31536000, immutable' : 'no-cache' });
    createReadStream(target).pipe(res);
  }

  const server = createServer(async (req, res) => {
    const { pathname, searchParams: query } = new URL(req.url, 'http://mock');
    try {
      if (pathname === '/api/malla/v1/events') return stream(res, listeners, res);
      if (pathname === '/api/malla/v1/logs/stream') return stream(res, tails, { res, match: matcher(query) });
      if (pathname.startsWith('/jaeger/api/')) return json(res, 200, jaeger(decodeURIComponent(pathname), query));
      if (pathname === '/api/v1/query_range') return json(res, 200, prom(query));
      if (!pathname.startsWith('/api/')) return file(decodeURIComponent(pathname), res);
      const found = route(req.method, pathname.replace('/api/malla/v1', ''));
      if (!found) throw new Refusal(404, 'not_found', `nothing at ${pathname}`);
      if (req.method !== 'GET' && req.headers['x-csrf-token'] !== 'mock-token') throw new Refusal(403, 'csrf', 'the request has no valid X-CSRF-Token', { fix: 'send the token of GET /api/malla/v1/session' });
      let text = '';
      for await (const chunk of req) text += chunk;
      json(res, 200, found.run({ parts: found.parts, query, body: text ? JSON.parse(text) : {} }));
    } catch (error) {
      const status = error instanceof Refusal ? error.status : 500;
      json(res, status, { error: { code: error.code ?? 'internal', message: error.message, ...error.extra } });
    }
  });
  server.on('close', () => timers.forEach((t) => { clearTimeout(t); clearInterval(t); }));
  return server;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const port = Number(arg('port', '20009'));
  makeServer({ scene: arg('scene', 'demo'), ...(arg('dist') ? { dist: arg('dist') } : {}) }).listen(port, '127.0.0.1', () => console.log(`mock console at http://127.0.0.1:${port}/`));
}
