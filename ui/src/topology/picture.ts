/** The graph as a PNG: everything, not only what is on screen, drawn by ourselves. */
import type { GraphNode } from '../api/types';
import { boxes, draw, errorTone } from './draw';
import type { Options, Palette, Wire } from './draw';
import { donut, size } from './layout';
import type { Positions } from './layout';
import type { Scene } from './model';

function drawNode(ctx: CanvasRenderingContext2D, x: number, y: number, node: GraphNode, title: string, line: string, p: Palette) {
  const cx = x + donut.x;
  const cy = y + donut.y;
  ctx.beginPath();
  ctx.arc(cx, cy, 28, 0, Math.PI * 2);
  ctx.fillStyle = p.surface;
  ctx.fill();
  ctx.lineWidth = 5;
  ctx.strokeStyle = node.rps > 0 ? p.ok : p.line;
  ctx.setLineDash(node.inMesh ? [] : [6, 4]);
  ctx.beginPath();
  ctx.arc(cx, cy, 25, 0, Math.PI * 2);
  ctx.stroke();
  ctx.setLineDash([]);
  if (node.errorShare > 0) {
    ctx.strokeStyle = errorTone(node.errorShare) === 'warn' ? p.warn : p.err;
    ctx.beginPath();
    ctx.arc(cx, cy, 25, -Math.PI / 2, -Math.PI / 2 + Math.max(0.2, node.errorShare * Math.PI * 2));
    ctx.stroke();
  }
  ctx.textAlign = 'center';
  ctx.textBaseline = 'alphabetic';
  ctx.fillStyle = p.ink;
  ctx.font = `600 13px ${p.font}`;
  ctx.fillText(title, cx, y + 78, size.width);
  ctx.fillStyle = p.muted;
  ctx.font = `400 11px ${p.font}`;
  ctx.fillText(line, cx, y + 95, size.width);
}

export function picture(scene: Scene, at: Positions, wires: Wire[], options: Omit<Options, 'time' | 'focus' | 'hover' | 'selected'>, subtitle: (n: GraphNode) => string): Promise<Blob | null> {
  const rects = [
    ...boxes(scene, at),
    ...scene.nodes.flatMap((n) => {
      const p = at.get(n.id);
      return p ? [{ x: p.x, y: p.y, w: size.width, h: size.height }] : [];
    }),
  ];
  const margin = 40;
  const x0 = Math.min(...rects.map((r) => r.x)) - margin;
  const y0 = Math.min(...rects.map((r) => r.y)) - margin;
  const width = Math.max(...rects.map((r) => r.x + r.w)) + margin - x0;
  const height = Math.max(...rects.map((r) => r.y + r.h)) + margin - y0;
  // Browsers refuse canvases beyond about 16k pixels a side.
  const scale = Math.min(2, 12_000 / width, 12_000 / height);
  const canvas = document.createElement('canvas');
  canvas.width = Math.ceil(width * scale);
  canvas.height = Math.ceil(height * scale);
  const ctx = canvas.getContext('2d');
  if (!ctx) return Promise.resolve(null);
  draw(ctx, scene, at, wires, { x: -x0 * scale, y: -y0 * scale, k: scale, width: canvas.width, height: canvas.height, dpr: 1 }, { ...options, time: null, focus: null, hover: null, selected: null });
  for (const n of scene.nodes) {
    const p = at.get(n.id);
    if (p) drawNode(ctx, p.x, p.y, n.node, n.node.name + (n.node.version ? ` ${n.node.version}` : ''), subtitle(n.node), options.palette);
  }
  ctx.globalCompositeOperation = 'destination-over';
  ctx.setTransform(1, 0, 0, 1, 0, 0);
  ctx.fillStyle = options.palette.bg;
  ctx.fillRect(0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
}
