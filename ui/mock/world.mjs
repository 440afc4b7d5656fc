// A small world that looks alive: the demo shop, its traffic, its rules. Deterministic but for the clock.

const wave = (t, period, phase = 0) => Math.sin((t / period) * 2 * Math.PI + phase);
/** A pseudo-random number in [0, 1) for any words. */
export function rnd(...words) {
  let h = 2166136261;
  for (const c of words.join('|')) h = Math.imul(h ^ c.charCodeAt(0), 16777619);
  h ^= h >>> 13;
  h = Math.imul(h, 0x5bd1e995);
  return ((h ^ (h >>> 15)) >>> 0) / 2 ** 32;
}
export const hex = (n, ...words) => Array.from({ length: n }, (_, i) => Math.floor(rnd(...words, i) * 16).toString(16)).join('');

const shop = (name, port, versions, replicas, calls) => ({ name, namespace: 'base', port, versions, replicas, calls });
/** Who is there and whom they call: [service, requests per second, p50 in ms]. */
const demoServices = [
  { name: 'istio-ingressgateway', namespace: 'istio-system', port: 80, versions: ['-'], replicas: 1, gateway: true, calls: [['frontend', 14, 9]] },
  shop('frontend', 80, ['v1'], 1, [['product', 7, 6], ['user', 4, 3], ['cart', 5.5, 12], ['order', 2.4, 28]]),
  shop('product', 7000, ['v1', 'v2'], 1, []),
  shop('user', 7000, ['v1'], 1, []),
  shop('cart', 7000, ['v1'], 3, [['stock', 5.5, 8]]),
  shop('order', 7000, ['v1', 'v2'], 1, [['stock', 2.4, 7]]),
  shop('stock', 7000, ['v1'], 1, []),
  { name: 'client', namespace: 'test', port: 7000, versions: ['v1'], replicas: 10, calls: [['user', 96, 4]] },
];

function bigServices() {
  const out = [];
  for (let i = 0; i < 1000; i += 1) {
    const ns = `team-${String(Math.floor(i / 45)).padStart(2, '0')}`;
    const calls = [];
    for (let j = 0; j < 5; j += 1) {
      const local = rnd('near', i, j) < 0.75;
      const base = Math.floor(i / 45) * 45;
      const target = local ? base + Math.floor(rnd('l', i, j) * 45) : Math.floor(rnd('f', i, j) * 1000);
      let free = Math.min(999, target);
      while (calls.some(([name]) => name === `svc-${String(free).padStart(4, '0')}`)) free = (free + 1) % 1000;
      calls.push([`svc-${String(free).padStart(4, '0')}`, 1 + rnd('r', i, j) * 60, 3 + rnd('p', i, j) * 60]);
    }
    out.push({ name: `svc-${String(i).padStart(4, '0')}`, namespace: ns, port: 8080, versions: ['v1'], replicas: 1, calls });
  }
  return out;
}

const evil = `<img src=x onerror="window.__xss=1">`;
const evil2 = `"><script>window.__xss=2</script>\u202e{{7*7}}\${7*7}`;
const hostileServices = [
  { name: 'istio-ingressgateway', namespace: 'istio-system', port: 80, versions: ['-'], replicas: 1, gateway: true, calls: [[evil, 9, 5]] },
  { name: evil, namespace: evil2, port: 80, versions: [evil, 'v2'], replicas: 2, calls: [[evil2, 4, 8]] },
  { name: evil2, namespace: 'x'.repeat(200), port: 80, versions: ['javascript:alert(1)'], replicas: 1, calls: [] },
];

export function makeWorld(scene) {
  const services = { demo: demoServices, big: bigServices(), empty: [], hostile: hostileServices }[scene] ?? demoServices;
  const byName = new Map(services.map((s) => [s.name, s]));
  const start = Math.floor(Date.now() / 1000);

  const rate = (from, to, base, t) => base * (1 + 0.22 * wave(t, 240, rnd(from, to) * 6) + 0.1 * wave(t, 37, rnd(to, from) * 6)) + rnd(from, to, Math.floor(t / 5)) * base * 0.08;
  /** The share of errors of calls to a service, as the rules in force make it. */
  const errors = (to, t, objects) => {
    if (scene === 'hostile') return 0.2;
    if (scene === 'big') return rnd('e', to) > 0.94 ? 0.08 : 0;
    if (to === 'user') return objects.has('DestinationRule/base/user') ? 0.38 + 0.03 * wave(t, 90) : 0.002;
    if (to === 'order') return objects.has('VirtualService/base/stock-vs') ? 0.6 : 0.012 + 0.01 * Math.max(0, wave(t, 300));
    return 0;
  };
  const slow = (to, objects) => (objects.has('VirtualService/base/stock-vs') && ['stock', 'cart', 'order'].includes(to) ? (to === 'order' ? 3000 : 7000) : 0);

  function badges(s, objects) {
    const out = [];
    for (const o of objects.values()) {
      const spec = o.object.spec ?? {};
      const hosts = [...(spec.hosts ?? []), spec.host].filter(Boolean).map((h) => String(h).split('.')[0]);
      if (o.namespace !== s.namespace) continue;
      if (o.kind === 'VirtualService' && hosts.includes(s.name)) {
        out.push('vs');
        const text = JSON.stringify(spec);
        if (text.includes('"fault"')) out.push('fault');
        if (text.includes('"timeout"')) out.push('timeout');
      }
      if (o.kind === 'DestinationRule' && hosts.includes(s.name)) {
        out.push('dr');
        if (spec.trafficPolicy?.connectionPool || spec.trafficPolicy?.outlierDetection) out.push('breaker');
        if (spec.trafficPolicy?.loadBalancer?.consistentHash) out.push('affinity');
      }
      if (o.kind === 'PeerAuthentication' && spec.mtls?.mode === 'STRICT') out.push('mtls-strict');
      if (o.kind === 'AuthorizationPolicy') out.push('authz');
    }
    if (s.gateway) out.push('gateway');
    return [...new Set(out)];
  }

  /** Splits a call over the versions of its target, in the given view. */
  function ends(s, view) {
    if (view === 'service' || s.gateway || s.versions.length < 1) return [{ id: `${view}/${s.namespace}/${s.name}`, s, part: 1 }];
    return s.versions.map((v, i) => ({ id: `${view}/${s.namespace}/${s.name}/${v}`, s, v, part: s.versions.length === 1 ? 1 : i === 0 ? 0.62 : 0.38 / (s.versions.length - 1) }));
  }
  const codes = (rps, share) => (share > 0 ? { 200: rps * (1 - share), 503: rps * share } : { 200: rps });

  function graph({ view = 'service', window = 60, end, namespaces }, objects) {
    const t = end ?? Date.now() / 1000;
    const nodes = new Map();
    const edges = [];
    const want = namespaces ? new Set(namespaces.split(',')) : null;
    const add = (e) => {
      if (nodes.has(e.id)) return;
      nodes.set(e.id, {
        id: e.id, kind: e.s.gateway ? 'gateway' : view, namespace: e.s.namespace, name: view === 'workload' && e.v ? `${e.s.name}-${e.v}` : e.s.name,
        ...(view === 'version' && e.v ? { version: e.v } : {}), rps: 0, errorShare: 0, p50: null, p90: null, p99: null, inMesh: e.s.name !== 'legacy', badges: badges(e.s, objects),
      });
    };
    const connect = (a, b, rps, p50, share, extra = {}) => {
      edges.push({ id: `${a}>${b}`, source: a, target: b, protocol: 'http', rps, errorShare: share, p50, p90: p50 * 2.1, p99: p50 * 4.6, bytesPerSecond: rps * 1840, mtls: 1, codes: codes(rps, share), ...extra });
    };
    for (const s of services) {
      if (want && !want.has(s.namespace)) continue;
      for (const e of ends(s, view)) add(e);
    }
    for (const s of services) {
      for (const [to, base, p50] of s.calls) {
        const target = byName.get(to);
        if (!target || (want && (!want.has(s.namespace) || !want.has(target.namespace)))) continue;
        for (const a of ends(s, view)) for (const b of ends(target, view)) {
          const r = rate(s.name, to, base, t) * a.part * b.part;
          connect(a.id, b.id, r, p50 + slow(to, objects) + p50 * 0.2 * wave(t, 60), errors(to, t, objects));
        }
      }
    }
    const entry = services.find((s) => s.gateway);
    if (entry && (!want || want.has(entry.namespace))) {
      nodes.set('unknown', { id: 'unknown', kind: 'unknown', namespace: '', name: '', rps: 0, errorShare: 0, p50: null, p90: null, p99: null, inMesh: false, badges: [] });
      connect('unknown', `${view}/${entry.namespace}/${entry.name}`, rate('', '', 14, t), 14, 0.004, { mtls: 0 });
    }
    if (byName.has('stock') && (!want || want.has('base'))) {
      nodes.set('ext/redis', { id: 'ext/redis', kind: 'external', namespace: '', name: 'redis.example.com', rps: 0, errorShare: 0, p50: null, p90: null, p99: null, inMesh: false, badges: [] });
      connect(ends(byName.get('stock'), view)[0].id, 'ext/redis', 0.8, 0, 0, { protocol: 'tcp', p50: null, p90: null, p99: null, bytesPerSecond: 9200 + 1500 * wave(t, 80), mtls: 0, codes: {} });
    }
    for (const e of edges) {
      const n = nodes.get(e.target);
      if (!n) continue;
      n.errorShare = (n.errorShare * n.rps + e.errorShare * e.rps) / (n.rps + e.rps || 1);
      n.rps += e.rps;
      n.p50 = Math.max(n.p50 ?? 0, e.p50 ?? 0);
      n.p90 = Math.max(n.p90 ?? 0, e.p90 ?? 0);
      n.p99 = Math.max(n.p99 ?? 0, e.p99 ?? 0);
    }
    for (const e of edges) {
      const n = nodes.get(e.source);
      if (n && n.rps === 0) n.rps = edges.filter((x) => x.source === n.id).reduce((sum, x) => sum + x.rps, 0);
    }
    return { at: t, window: Number(window), nodes: [...nodes.values()], edges: edges.filter((e) => nodes.has(e.source) && nodes.has(e.target)) };
  }

  const podName = (s, v, i) => `${s.name}-${s.versions.length > 1 ? `${v}-` : ''}${hex(9, s.name, v).slice(0, 9)}-${hex(5, s.name, v, i)}`;
  const pods = services.flatMap((s) => s.versions.flatMap((v) => Array.from({ length: s.replicas }, (_, i) => ({
    s, v, pod: podName(s, v, i), namespace: s.namespace, workload: s.gateway ? s.name : `${s.name}-${v}`, ip: `10.244.${1 + Math.floor(rnd(s.name) * 3)}.${2 + Math.floor(rnd(s.name, v, i) * 250)}`,
  }))));

  function totals(s, objects, t = Date.now() / 1000) {
    let rps = 0;
    let p50 = 0;
    for (const other of services) for (const [to, base, ms] of other.calls) if (to === s.name) {
      rps += rate(other.name, to, base, t);
      p50 = Math.max(p50, ms + slow(to, objects));
    }
    if (s.gateway) {
      rps = rate('', '', 14, t);
      p50 = 14;
    }
    return { rps, errorShare: rps > 0 ? errors(s.name, t, objects) : 0, p99: rps > 0 ? p50 * 4.6 : null };
  }
  const summary = (s, objects) => ({
    namespace: s.namespace, name: s.name, hosts: [`${s.name}.${s.namespace}.svc.cluster.local`], ports: [{ name: 'http', port: s.port, protocol: 'HTTP' }],
    versions: s.versions.filter((v) => v !== '-'), ...totals(s, objects), sidecars: `${s.versions.length * s.replicas}/${s.versions.length * s.replicas}`,
  });

  return { scene, services, byName, pods, start, graph, totals, summary, rate, errors, slow, evil, evil2 };
}

/** The spans of one visit of `/order`, as lesson Q1b has them. */
export function makeTrace(world, index) {
  const at = index * 2000; // one every two seconds
  const traceID = hex(32, 'trace', index);
  const failed = rnd('fail', index) < 0.06;
  const kind = rnd('kind', index) < 0.55 ? 'order' : rnd('kind2', index) < 0.6 ? 'product' : 'cart';
  const order = rnd('ver', index) < 0.6 ? 'v1' : 'v2';
  const total = Math.round((kind === 'order' ? 21_000 : kind === 'cart' ? 12_000 : 6_000) * (0.6 + rnd('d', index) * 1.4 + (rnd('slow', index) > 0.96 ? 6 : 0)));
  const processes = {};
  const spans = [];
  const add = (service, operation, parent, from, to, spanKind, code, extra = []) => {
    const pid = `p${Object.keys(processes).length + 1}`;
    const name = service;
    const known = Object.entries(processes).find(([, p]) => p.serviceName === name)?.[0] ?? pid;
    processes[known] ??= { serviceName: name, tags: [{ key: 'ip', type: 'string', value: '10.244.1.17' }] };
    const spanID = hex(16, 'span', index, spans.length);
    spans.push({
      traceID, spanID, operationName: operation, references: parent ? [{ refType: 'CHILD_OF', traceID, spanID: parent }] : [],
      startTime: Math.round(at * 1000 + total * from), duration: Math.round(total * (to - from)), processID: known, logs: [], warnings: null,
      tags: [
        { key: 'span.kind', type: 'string', value: spanKind }, { key: 'http.method', type: 'string', value: kind === 'order' ? 'POST' : 'GET' }, { key: 'http.url', type: 'string', value: `http://${service}${operation}` },
        { key: 'http.status_code', type: 'string', value: String(code) }, { key: 'response_flags', type: 'string', value: code >= 500 ? 'UT' : '-' }, { key: 'component', type: 'string', value: 'proxy' },
        ...(code >= 500 ? [{ key: 'error', type: 'bool', value: true }] : []), ...extra,
      ],
    });
    return spanID;
  };
  const bad = failed ? 504 : 200;
  const ns = '.base';
  const a = add('istio-ingressgateway.istio-system', `/${kind}`, null, 0, 1, 'client', bad);
  const b = add(`frontend${ns}`, `/${kind}`, a, 0.04, 0.97, 'server', bad);
  const c = add(`frontend${ns}`, `/${kind}`, b, 0.11, 0.93, 'client', bad);
  if (kind === 'product') add(`product${ns}`, '/product', c, 0.2, 0.85, 'server', bad);
  else {
    const d = add(`${kind}${ns}`, `/${kind}`, c, 0.16, 0.89, 'server', bad, [{ key: 'istio.canonical_revision', type: 'string', value: kind === 'order' ? order : 'v1' }]);
    const e = add(`${kind}${ns}`, '/stock', d, 0.31, 0.78, 'client', bad);
    add(`stock${ns}`, '/stock', e, 0.38, 0.71, 'server', 200);
  }
  return { at, kind, order, failed, total, trace: { traceID, spans, processes } };
}

/** The access log lines of a trace. */
export function linesOf(world, made) {
  const out = [];
  const pod = (name, v) => world.pods.find((p) => p.s.name === name && (!v || p.v === v)) ?? world.pods[0];
  for (const span of made.trace.spans) {
    const service = made.trace.processes[span.processID].serviceName.split('.')[0];
    const kind = span.tags.find((t) => t.key === 'span.kind').value;
    const p = pod(service, service === 'order' ? made.order : undefined);
    if (!p) continue;
    const code = Number(span.tags.find((t) => t.key === 'http.status_code').value);
    const target = kind === 'server' ? service : service === 'istio-ingressgateway' ? 'frontend' : service === 'frontend' ? made.kind : 'stock';
    const caller = kind === 'server' ? { frontend: 'istio-ingressgateway', stock: `${made.kind}-${made.kind === 'order' ? made.order : 'v1'}` }[service] ?? 'frontend-v1' : p.workload;
    out.push({
      time: new Date(span.startTime / 1000).toISOString(), pod: p.pod, namespace: p.namespace, workload: p.workload, method: made.kind === 'order' ? 'POST' : 'GET', path: span.operationName,
      authority: `${target}.base.svc.cluster.local:7000`, code, flags: code >= 500 ? [service === 'order' && kind === 'client' ? 'UT' : 'URX'] : [], durationMs: Math.round(span.duration / 100) / 10,
      bytesSent: 380 + Math.floor(rnd(span.spanID) * 4000), bytesReceived: Math.floor(rnd(span.spanID, 1) * 300), upstreamHost: `10.244.1.${2 + Math.floor(rnd(target) * 250)}:7000`,
      upstreamCluster: kind === 'server' ? 'inbound|7000||' : `outbound|7000||${target}.base.svc.cluster.local`, route: kind === 'server' ? 'default' : `${target}-vs`, requestId: `${hex(8, made.trace.traceID)}-${hex(4, made.trace.traceID, 1)}-4${hex(3, made.trace.traceID, 2)}`,
      traceId: made.trace.traceID, userAgent: 'Mozilla/5.0 (X11; Linux x86_64)', protocol: 'HTTP/1.1', reporter: kind === 'server' ? 'destination' : 'source', source: caller, destination: target,
    });
  }
  return out;
}

export function clientLine(world, index, at, objects) {
  const p = world.pods.filter((x) => x.s.name === 'client')[index % 10];
  if (!p) return null;
  const refused = rnd('uo', index) < world.errors('user', at / 1000, objects);
  return {
    time: new Date(at).toISOString(), pod: p.pod, namespace: 'test', workload: 'client-v1', method: 'GET', path: '/user', authority: 'user.base.svc.cluster.local:7000', code: refused ? 503 : 200, flags: refused ? ['UO'] : [],
    durationMs: refused ? 0.1 : 2 + Math.round(rnd('cl', index) * 60) / 10, bytesSent: refused ? 81 : 96, bytesReceived: 0, upstreamHost: refused ? '' : '10.244.2.8:7000', upstreamCluster: 'outbound|7000||user.base.svc.cluster.local', route: 'default',
    requestId: `${hex(8, 'cl', index)}-${hex(4, 'cl2', index)}`, traceId: '', userAgent: 'Go-http-client/1.1', protocol: 'HTTP/1.1', reporter: 'source', source: 'client-v1', destination: 'user',
  };
}
