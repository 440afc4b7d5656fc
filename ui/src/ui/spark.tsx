/** A small line without axes. */
export function Spark({ values, color = 'c1', width = 72, height = 20 }: { values: (number | null)[]; color?: string; width?: number; height?: number }) {
  const known = values.filter((v): v is number => v !== null);
  const top = Math.max(1e-9, ...known);
  const points = values.flatMap((v, i) => (v === null ? [] : [`${((i / Math.max(1, values.length - 1)) * width).toFixed(1)},${(height - 2 - (v / top) * (height - 4)).toFixed(1)}`]));
  return (
    <svg width={width} height={height} viewBox={`0 0 ${width} ${height}`} aria-hidden="true" focusable="false">
      <polyline points={points.join(' ')} fill="none" stroke={`var(--${color})`} strokeWidth="1.500" strokeLinejoin="round" />
    </svg>
  );
}
