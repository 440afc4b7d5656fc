/** Time series on uPlot. Redrawn on theme change; the legend below follows the cursor and is plain DOM. */
import { useEffect, useMemo, useRef, useState } from 'react';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { useT } from '../i18n';
import { timeOfDay } from '../lib/format';
import { useSize } from '../lib/hooks';
import { token, useTheme } from '../lib/theme';

export interface Line {
  label: string;
  /** A token of the theme without the dashes: c1 … c6, err, ok. */
  color: string;
  values: (number | null)[];
  fill?: boolean;
}
interface Props {
  times: number[];
  lines: Line[];
  format: (v: number | null) => string;
  height?: number;
  label: string;
  /** Charts with the same key share their cursor. */
  sync?: string;
  legend?: boolean;
  min?: number;
  /** Axis steps of 1, 2, 4, 8 … times a power of 1024. */
  binary?: boolean;
  /** The least upper end of the axis, so that noise does not look like a mountain. */
  max?: number;
}

const soft = (color: string) => `color-mix(in srgb, ${color} 14%, transparent)`;

const binarySteps = Array.from({ length: 50 }, (_, i) => 2 ** i);

function axes(font: string, format: (v: number | null) => string, lang: string, binary: boolean): uPlot.Axis[] {
  const muted = token('faint');
  const line = token('line');
  return [
    { stroke: muted, font, grid: { show: false }, ticks: { show: false }, size: 24, gap: 4, space: 70, values: (_, splits) => splits.map((s) => timeOfDay(new Date(s * 1000), lang).slice(0, splits.length > 1 && (splits[1] ?? 0) - (splits[0] ?? 0) < 60 ? 8 : 5)) },
    { stroke: muted, font, grid: { stroke: line, width: 1 }, ticks: { show: false }, size: 54, gap: 6, space: 34, ...(binary ? { incrs: binarySteps } : {}), values: (_, splits) => splits.map((s) => format(s)) },
  ];
}

export function Chart({ times, lines, format, height = 150, label, sync, legend = true, min = 0, max, binary = false }: Props) {
  const { lang } = useT();
  const theme = useTheme();
  const [box, { width }] = useSize<HTMLDivElement>();
  const plot = useRef<uPlot | null>(null);
  const [at, setAt] = useState<number | null>(null);
  const shape = lines.map((l) => `${l.label}\u0000${l.color}`).join('\u0001');
  const data = useMemo(() => [times, ...lines.map((l) => l.values)] as uPlot.AlignedData, [times, lines]);
  const latest = useRef(data);
  latest.current = data;
  const formatRef = useRef(format);
  formatRef.current = format;
  const linesRef = useRef(lines);
  linesRef.current = lines;

  useEffect(() => {
    const parent = box.current;
    if (!parent || width === 0) return;
    const font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const made = new uPlot(
      {
        width,
        height,
        padding: [8, 4, 0, 0],
        legend: { show: false },
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 6 }, ...(sync ? { sync: { key: sync } } : {}) },
        scales: { x: { time: true }, y: { range: (_u, low, high) => [Math.min(min, low ?? min), Math.max(max ?? 0, (high ?? 1) * 1.12) || 1] } },
        series: [
          {},
          ...linesRef.current.map((l) => {
            const stroke = token(l.color);
            return { label: l.label, stroke, width: 1.5, points: { show: false }, spanGaps: false, ...(l.fill ? { fill: soft(stroke) } : {}) };
          }),
        ],
        axes: axes(font, (v) => formatRef.current(v), lang, binary),
        hooks: { setCursor: [(u) => setAt(u.cursor.idx ?? null)] },
      },
      latest.current,
      parent,
    );
    plot.current = made;
    return () => {
      made.destroy();
      plot.current = null;
    };
  }, [box, width, height, theme, lang, shape, sync, min, max, binary]);

  useEffect(() => plot.current?.setData(data), [data]);

  const index = at ?? times.length - 1;
  return (
    <figure className="chart">
      <figcaption className="sr">{label}</figcaption>
      <div ref={box} role="img" aria-label={`${label}: ${lines.map((l) => `${l.label} ${format(l.values[times.length - 1] ?? null)}`).join(', ')}`} style={{ height }} />
      {legend && (
        <div className="legend">
          {lines.map((l) => (
            <span key={l.label}>
              <i style={{ background: `var(--${l.color})` }} />
              {l.label}
              <b>{format(l.values[index] ?? null)}</b>
            </span>
          ))}
          {at !== null && times[index] !== undefined && <span>{timeOfDay(new Date(times[index] * 1000), lang)}</span>}
        </div>
      )}
    </figure>
  );
}

/** The colour of a status code class. */
export function codeColor(code: string): string {
  switch (code[0]) {
    case '2': return 'c2';
    case '3': return 'c1';
    case '4': return 'c3';
    case '5': return 'c5';
    default: return 'c6';
  }
}
