/** Range queries to the Prometheus API, and the expressions the console's charts use. */
import { queryOptions } from '@tanstack/react-query';
import { ApiError, get } from './client';
import type { Every } from './queries';

export interface Series {
  label: string;
  values: (number | null)[];
}
export interface Range {
  times: number[];
  series: Series[];
}

/** About 120 points, on a grid so that the points of a moving window stay put. */
export function grid(window: number, end: number): { start: number; end: number; step: number } {
  const step = Math.max(5, Math.ceil(window / 120 / 5) * 5);
  const last = Math.floor(end / step) * step;
  return { start: last - Math.floor(window / step) * step, end: last, step };
}

/** A PromQL string literal. Names come from outside, so quotes and backslashes are escaped. */
export const lit = (text: string) => JSON.stringify(text);

/** `{a="b",…}`; empty values are left out. */
export function selector(labels: Record<string, string | undefined>): string {
  const parts = Object.entries(labels).flatMap(([key, value]) => (value ? [`${key}=${lit(value)}`] : []));
  return `{${parts.join(',')}}`;
}

/** The rate window that fits a step: at least four scrapes of five seconds. */
const over = (step: number) => `${Math.max(20, step * 2)}s`;

export const expr = {
  rateByCode: (sel: string, step: number) => `sum by (response_code) (rate(istio_requests_total${sel}[${over(step)}]))`,
  rateByVersion: (sel: string, step: number) => `sum by (destination_version) (rate(istio_requests_total${sel}[${over(step)}]))`,
  quantile: (p: number, sel: string, step: number) =>
    `histogram_quantile(${p}, sum by (le) (rate(istio_request_duration_milliseconds_bucket${sel}[${over(step)}])))`,
  bytes: (sel: string, step: number) => `sum(rate(istio_response_bytes_sum${sel}[${over(step)}]))`,
};

interface Wanted {
  query: (step: number) => string;
  /** The label whose value names the series; without one the series is called `name`. */
  by?: string;
  name?: string;
}

async function run(wanted: Wanted[], window: number, endAt: number | undefined, signal: AbortSignal): Promise<Range> {
  const { start, end, step } = grid(window, endAt ?? Date.now() / 1000);
  const times: number[] = [];
  for (let t = start; t <= end; t += step) times.push(t);
  const answers = await Promise.all(
    wanted.map((w) => get('/api/v1/query_range', { query: { query: w.query(step), start, end, step }, signal })),
  );
  const series: Series[] = [];
  answers.forEach((answer, i) => {
    if (answer.status !== 'success') throw new ApiError(200, 'prometheus', answer.error ?? '');
    const want = wanted[i];
    for (const result of answer.data?.result ?? []) {
      const at = new Map(result.values.map(([t, v]) => [Math.round(Number(t)), Number(v)]));
      const values = times.map((t) => {
        const v = at.get(Math.round(t));
        return v === undefined || !Number.isFinite(v) ? null : v;
      });
      series.push({ label: (want?.by ? result.metric[want.by] : want?.name) ?? '', values });
    }
  });
  series.sort((a, b) => a.label.localeCompare(b.label, 'en', { numeric: true }));
  return { times, series };
}

export function range(key: readonly unknown[], wanted: Wanted[], window: number, end: number | undefined, every: Every) {
  return queryOptions({
    queryKey: ['prom', ...key, window, end ?? null],
    queryFn: ({ signal }) => run(wanted, window, end, signal),
    refetchInterval: every,
  });
}
