/** Draws edges, boxes and (for the picture to save) nodes on a canvas. Knows nothing of React. */
import type { GraphEdge } from '../api/types';
import { token } from '../lib/theme';
import { donut, size } from './layout';
import type { Direction, Point, Positions } from './layout';
import type { Scene } from './model';

export interface Palette {
  bg: string;
  surface: string;
  sunken: string;
  ink: string;
  muted: string;
  faint: string;
  line: string;
  edge: string;
  accent: string;
  ok: string;
  warn: string;
  err: string;
  tcp: string;
  font: string;
}
export function palette(): Palette {
  return {
    bg: token('bg'), surface: token('surface'), sunken: token('sunken'), ink: token('ink'), muted: token('muted'), faint: token('faint'), line: token('line'), edge: token('edge'),
    accent: token('accent'), ok: token('ok-mark'), warn: token('warn-mark'), err: token('err-mark'), tcp: token('c4'), font: getComputedStyle(document.body).fontFamily,
  };
}

export interface Wire {
  edge: GraphEdge;
  /** 25 points along the curve, x and y in turn. */
  points: Float64Array;
  length: number;
  curve: [Point, Point, Point, Point];
  box: [number, number, number, number];
}

const samples = 24;

function curveOf(s: Point, t: Point, self: boolean, direction: Direction): [Point, Point, Point, Point] {
  if (self) {
    const top = { x: s.x, y: s.y - donut.r };
    return [{ x: top.x + 14, y: top.y + 2 }, { x: top.x + 44, y: top.y - 46 }, { x: top.x - 44, y: top.y - 46 }, { x: top.x - 14, y: top.y + 2 }];
  }
  if (direction === 'DOWN') {
    const reach = t.y >= s.y ? Math.max(30, (t.y - s.y) / 2) : Math.min(160, 60 + (s.y - t.y) / 3);
    return [s, { x: s.x, y: s.y + reach }, { x: t.x, y: t.y - reach }, t];
  }
  const reach = t.x >= s.x ? Math.max(36, (t.x - s.x) / 2) : Math.min(220, 70 + (s.x - t.x) / 3);
  return [s, { x: s.x + reach, y: s.y }, { x: t.x - reach, y: t.y }, t];
}

function wire(edge: GraphEdge, curve: [Point, Point, Point, Point]): Wire {
  const [a, b, c, d] = curve;
  const points = new Float64Array((samples + 1) * 2);
  let length = 0;
  const box: [number, number, number, number] = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i <= samples; i += 1) {
    const u = i / samples;
    const v = 1 - u;
    const x = v * v * v * a.x + 3 * v * v * u * b.x + 3 * v * u * u * c.x + u * u * u * d.x;
    const y = v * v * v * a.y + 3 * v * v * u * b.y + 3 * v * u * u * c.y + u * u * u * d.y;
    points[i * 2] = x;
    points[i * 2 + 1] = y;
    if (i > 0) length += Math.hypot(x - (points[i * 2 - 2] as number), y - (points[i * 2 - 1] as number));
    box[0] = Math.min(box[0], x);
    box[1] = Math.min(box[1], y);
    box[2] = Math.max(box[2], x);
    box[3] = Math.max(box[3], y);
  }
  return { edge, points, length, curve, box };
}

/** Lays a curve for each edge. Edges of one node fan out over its side, in the order of the other ends. */
export function wires(scene: Scene, at: Positions, direction: Direction): Wire[] {
  const down = direction === 'DOWN';
  const across = (id: string) => (down ? at.get(id)?.x : at.get(id)?.y) ?? 0;
  const spread = new Map<string, number>();
  const fan = (side: 'source' | 'target') => {
    const other = side === 'source' ? 'target' : 'source';
    const by = new Map<string, GraphEdge[]>();
    for (const e of scene.edges) {
      const list = by.get(e[side]);
      if (list) list.push(e);
      else by.set(e[side], [e]);
    }
    for (const list of by.values()) {
      list.sort((a, b) => across(a[other]) - across(b[other]));
      const room = Math.min(donut.r * 1.5, (list.length - 1) * 11);
      list.forEach((e, i) => spread.set(`${side}${e.id}`, list.length > 1 ? -room / 2 + (room * i) / (list.length - 1) : 0));
    }
  };
  fan('source');
  fan('target');
  return scene.edges.flatMap((e) => {
    const s = at.get(e.source);
    const t = at.get(e.target);
    if (!s || !t) return [];
    const a = { x: s.x + donut.x, y: s.y + donut.y };
    const b = { x: t.x + donut.x, y: t.y + donut.y };
    if (e.source === e.target) return [wire(e, curveOf(a, b, true, direction))];
    const out = spread.get(`source${e.id}`) ?? 0;
    const into = spread.get(`target${e.id}`) ?? 0;
    const side = (off: number) => Math.sqrt(Math.max(0, donut.r ** 2 - off ** 2));
    const from = down ? { x: a.x + out, y: s.y + size.height } : { x: a.x + side(out), y: a.y + out };
    const to = down ? { x: b.x + into, y: b.y - side(into) } : { x: b.x - side(into) - 2, y: b.y + into };
    return [wire(e, curveOf(from, to, false, direction))];
  });
}

/** The edge nearest to a point, within `reach`. */
export function hit(list: Wire[], x: number, y: number, reach: number): Wire | null {
  let best: Wire | null = null;
  let least = reach * reach;
  for (const w of list) {
    if (x < w.box[0] - reach || y < w.box[1] - reach || x > w.box[2] + reach || y > w.box[3] + reach) continue;
    for (let i = 0; i < samples; i += 1) {
      const d = toSegment(x, y, w.points[i * 2] as number, w.points[i * 2 + 1] as number, w.points[i * 2 + 2] as number, w.points[i * 2 + 3] as number);
      if (d < least) {
        least = d;
        best = w;
      }
    }
  }
  return best;
}
function toSegment(x: number, y: number, ax: number, ay: number, bx: number, by: number): number {
  const dx = bx - ax;
  const dy = by - ay;
  const t = Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy || 1)));
  return (x - ax - t * dx) ** 2 + (y - ay - t * dy) ** 2;
}

/** Rectangles around the nodes of each namespace. */
export function boxes(scene: Scene, at: Positions): { namespace: string; x: number; y: number; w: number; h: number }[] {
  const out = new Map<string, [number, number, number, number]>();
  for (const n of scene.nodes) {
    const p = at.get(n.id);
    if (!p || n.namespace === '' || n.folded) continue;
    const b = out.get(n.namespace) ?? [Infinity, Infinity, -Infinity, -Infinity];
    out.set(n.namespace, [Math.min(b[0], p.x), Math.min(b[1], p.y), Math.max(b[2], p.x + size.width), Math.max(b[3], p.y + size.height)]);
  }
  return [...out].map(([namespace, b]) => ({ namespace, x: b[0] - 18, y: b[1] - 38, w: b[2] - b[0] + 36, h: b[3] - b[1] + 56 }));
}

export interface View {
  x: number;
  y: number;
  k: number;
  width: number;
  height: number;
  dpr: number;
}
export interface Options {
  palette: Palette;
  /** Milliseconds; null draws no moving dots. */
  time: number | null;
  label: (e: GraphEdge) => string;
  /** Edges and nodes that stand out; null if all do. */
  focus: { nodes: Set<string>; edge: string | null } | null;
  hover: string | null;
  selected: string | null;
}

export function errorTone(share: number): 'ok' | 'warn' | 'err' {
  return share >= 0.05 ? 'err' : share >= 0.001 ? 'warn' : 'ok';
}

function strokeOf(e: GraphEdge, p: Palette): string {
  const tone = errorTone(e.errorShare);
  if (tone !== 'ok') return p[tone];
  return e.protocol === 'tcp' ? p.tcp : p.edge;
}

const lit = (e: GraphEdge, o: Options) => !o.focus || o.focus.edge === e.id || (o.focus.edge === null && o.focus.nodes.has(e.source) && o.focus.nodes.has(e.target));

function drawBoxes(ctx: CanvasRenderingContext2D, scene: Scene, at: Positions, o: Options, k: number) {
  ctx.lineWidth = 1 / Math.min(1, k);
  for (const b of boxes(scene, at)) {
    ctx.beginPath();
    ctx.roundRect(b.x, b.y, b.w, b.h, 14);
    ctx.fillStyle = o.palette.sunken;
    ctx.globalAlpha = 0.75;
    ctx.fill();
    ctx.globalAlpha = 1;
    ctx.strokeStyle = o.palette.line;
    ctx.stroke();
    const px = Math.min(34, Math.max(12, 11 / k));
    ctx.font = `550 ${px}px ${o.palette.font}`;
    ctx.fillStyle = o.palette.muted;
    ctx.textBaseline = 'alphabetic';
    ctx.textAlign = 'left';
    ctx.fillText(b.namespace, b.x + 16, b.y + Math.max(24, px + 4), b.w - 32);
  }
}

function arrow(ctx: CanvasRenderingContext2D, w: Wire, scale: number) {
  const [, , c, d] = w.curve;
  const angle = Math.atan2(d.y - c.y, d.x - c.x);
  const r = 7 * scale;
  ctx.beginPath();
  ctx.moveTo(d.x, d.y);
  ctx.lineTo(d.x - r * Math.cos(angle - 0.42), d.y - r * Math.sin(angle - 0.42));
  ctx.lineTo(d.x - r * Math.cos(angle + 0.42), d.y - r * Math.sin(angle + 0.42));
  ctx.closePath();
  ctx.fill();
}

function drawWire(ctx: CanvasRenderingContext2D, w: Wire, o: Options, plain: boolean) {
  const e = w.edge;
  const strong = o.selected === e.id || o.hover === e.id;
  const bright = lit(e, o);
  const [a, b, c, d] = w.curve;
  ctx.globalAlpha = bright ? 1 : 0.22;
  ctx.strokeStyle = o.selected === e.id ? o.palette.accent : strokeOf(e, o.palette);
  ctx.lineWidth = (plain ? 1 : 1.2 + Math.log10(1 + e.rps) * 0.9) + (strong ? 1.4 : 0);
  ctx.setLineDash(e.rps === 0 && e.bytesPerSecond === 0 ? [4, 5] : e.protocol === 'tcp' ? [9, 4] : []);
  ctx.beginPath();
  ctx.moveTo(a.x, a.y);
  ctx.bezierCurveTo(b.x, b.y, c.x, c.y, d.x, d.y);
  ctx.stroke();
  if (plain && !strong) return;
  ctx.setLineDash([]);
  ctx.fillStyle = ctx.strokeStyle;
  arrow(ctx, w, strong ? 1.25 : 1);
}

/** The point a share `u` of the way along. */
function along(w: Wire, u: number): Point {
  const f = Math.min(samples - 1e-6, Math.max(0, u * samples));
  const i = Math.floor(f);
  const r = f - i;
  const q = w.points;
  return { x: (q[i * 2] as number) * (1 - r) + (q[i * 2 + 2] as number) * r, y: (q[i * 2 + 1] as number) * (1 - r) + (q[i * 2 + 3] as number) * r };
}

/** Dots that travel: more for more requests, slower for slower answers, red for the share that fails. */
function drawDots(ctx: CanvasRenderingContext2D, w: Wire, o: Options, time: number) {
  const e = w.edge;
  if (e.rps <= 0 || !lit(e, o)) return;
  const count = Math.max(1, Math.min(Math.floor(w.length / 22), Math.round(1 + Math.log2(1 + e.rps) * 0.8)));
  const speed = Math.max(34, 150 - 34 * Math.log10(1 + (e.p50 ?? 5)));
  const turn = ((time / 1000) * speed) / w.length;
  const bad = e.errorShare > 0.001 ? Math.max(1, Math.round(count * e.errorShare)) : 0;
  const radius = 2.1 + Math.min(1.4, Math.log10(1 + e.rps) * 0.5);
  for (let i = 0; i < count; i += 1) {
    const p = along(w, (turn + i / count) % 1);
    const failed = i < bad;
    ctx.fillStyle = failed ? o.palette.err : o.palette.accent;
    ctx.beginPath();
    if (failed) {
      ctx.moveTo(p.x, p.y - radius * 1.5);
      ctx.lineTo(p.x + radius * 1.5, p.y);
      ctx.lineTo(p.x, p.y + radius * 1.5);
      ctx.lineTo(p.x - radius * 1.5, p.y);
    } else ctx.arc(p.x, p.y, radius, 0, Math.PI * 2);
    ctx.fill();
  }
}

function padlock(ctx: CanvasRenderingContext2D, x: number, y: number, closed: boolean, color: string) {
  ctx.fillStyle = color;
  ctx.strokeStyle = color;
  ctx.lineWidth = 1.2;
  ctx.beginPath();
  ctx.roundRect(x, y + 4, 7.5, 5.5, 1);
  ctx.fill();
  ctx.beginPath();
  ctx.arc(x + 3.75 + (closed ? 0 : 2.4), y + 3.8, 2.3, Math.PI, closed ? 0 : Math.PI * 1.85);
  ctx.stroke();
}

type Taken = [x: number, y: number, width: number, height: number][];
const places = [0.5, 0.4, 0.6, 0.3, 0.7, 0.22, 0.78];

/** The first place along the wire where the label covers no other; null if there is none. */
function freePlace(w: Wire, width: number, height: number, taken: Taken): Point | null {
  for (const u of places) {
    const q = along(w, u);
    if (taken.some(([x, y, tw, th]) => Math.abs(x - q.x) * 2 < width + tw && Math.abs(y - q.y) * 2 < height + th)) continue;
    taken.push([q.x, q.y, width, height]);
    return q;
  }
  return null;
}

function drawLabel(ctx: CanvasRenderingContext2D, w: Wire, o: Options, grow: number, taken: Taken) {
  const e = w.edge;
  const text = o.label(e);
  const secure = e.mtls >= 0.999;
  const lock = e.rps > 0 || e.bytesPerSecond > 0;
  if (!text && !lock) return;
  ctx.font = `500 11px ${o.palette.font}`;
  const width = (text ? ctx.measureText(text).width : 0) + (lock ? (text ? 14 : 8) : 0) + 10;
  const q = freePlace(w, (width + 3) * grow, 20 * grow, taken);
  if (!q) return;
  const p = { x: 0, y: 0 };
  ctx.save();
  ctx.translate(q.x, q.y);
  ctx.scale(grow, grow);
  ctx.globalAlpha = lit(e, o) ? 1 : 0.22;
  ctx.fillStyle = o.palette.surface;
  ctx.strokeStyle = o.selected === e.id ? o.palette.accent : o.palette.line;
  ctx.lineWidth = 1;
  ctx.beginPath();
  ctx.roundRect(p.x - width / 2, p.y - 9, width, 18, 9);
  ctx.fill();
  ctx.stroke();
  if (lock) padlock(ctx, p.x - width / 2 + 5.5, p.y - 5.2, secure, secure ? o.palette.faint : o.palette.warn);
  if (text) {
    ctx.fillStyle = errorTone(e.errorShare) === 'err' ? o.palette.err : o.palette.ink;
    ctx.textAlign = 'left';
    ctx.textBaseline = 'middle';
    ctx.fillText(text, p.x - width / 2 + 5 + (lock ? 14 : 0), p.y + 0.5);
  }
  ctx.restore();
}

export function draw(ctx: CanvasRenderingContext2D, scene: Scene, at: Positions, list: Wire[], view: View, o: Options) {
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.clearRect(0, 0, view.width * view.dpr, view.height * view.dpr);
  ctx.setTransform(view.dpr * view.k, 0, 0, view.dpr * view.k, view.dpr * view.x, view.dpr * view.y);
  const x0 = -view.x / view.k;
  const y0 = -view.y / view.k;
  const x1 = x0 + view.width / view.k;
  const y1 = y0 + view.height / view.k;
  const seen = list.filter((w) => w.box[2] >= x0 && w.box[0] <= x1 && w.box[3] >= y0 && w.box[1] <= y1);
  drawBoxes(ctx, scene, at, o, view.k);
  const plain = seen.length > 700;
  for (const w of seen) drawWire(ctx, w, o, plain);
  ctx.setLineDash([]);
  ctx.globalAlpha = 1;
  if (o.time !== null && seen.length <= 400) for (const w of seen) drawDots(ctx, w, o, o.time);
  if (view.k > 0.4 && seen.length <= 260) {
    // What is pointed at or chosen has the first choice of places; then whatever fails, then what is busiest.
    const first = (w: Wire) => (o.hover === w.edge.id || o.selected === w.edge.id ? 2 : lit(w.edge, o) ? 1 : 0);
    const order = [...seen].sort((a, b) => first(b) - first(a) || b.edge.errorShare - a.edge.errorShare || b.edge.rps - a.edge.rps || (a.edge.id < b.edge.id ? -1 : 1));
    const taken: Taken = [];
    for (const w of order) drawLabel(ctx, w, o, Math.max(1, 0.85 / view.k), taken);
  }
  ctx.globalAlpha = 1;
}
