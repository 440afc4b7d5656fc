/** The charts of a service, workload or edge, from the Prometheus API. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import type { Range } from '../api/prom';
import { expr, range, selector } from '../api/prom';
import { useT } from '../i18n';
import { bytes, ms, rate } from '../lib/format';
import { Chart, codeColor } from './chart';
import type { Line } from './chart';
import { Failure, Skeleton } from './parts';

const wheel = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6'];

interface Props {
  labels: Record<string, string | undefined>;
  window: number;
  end: number | undefined;
  every: number | false;
  /** Which charts. */
  show?: ('codes' | 'latency' | 'versions' | 'bytes')[];
  height?: number;
  sync?: string;
}

export function Metrics({ labels, window, end, every, show = ['codes', 'latency'], height = 130, sync }: Props) {
  const { t, lang } = useT();
  const sel = selector(labels);
  const codes = useQuery({ ...range(['codes', sel], [{ query: (s) => expr.rateByCode(sel, s), by: 'response_code' }], window, end, every), enabled: show.includes('codes') });
  const latency = useQuery({
    ...range(
      ['latency', sel],
      [0.5, 0.9, 0.99].map((p) => ({ query: (s: number) => expr.quantile(p, sel, s), name: `p${p * 100}` })),
      window,
      end,
      every,
    ),
    enabled: show.includes('latency'),
  });
  const versions = useQuery({ ...range(['versions', sel], [{ query: (s) => expr.rateByVersion(sel, s), by: 'destination_version' }], window, end, every), enabled: show.includes('versions') });
  const volume = useQuery({ ...range(['bytes', sel], [{ query: (s) => expr.bytes(sel, s), name: t('metrics.bytes') }], window, end, every), enabled: show.includes('bytes') });
  const charts = {
    codes: { query: codes, title: t('metrics.codes'), color: (l: string) => codeColor(l), format: (v: number | null) => rate(v, lang), max: 1 },
    latency: { query: latency, title: t('metrics.latency'), color: (_: string, i: number) => ['c1', 'c4', 'c5'][i] ?? 'c6', format: (v: number | null) => ms(v, lang), max: 5 },
    versions: { query: versions, title: t('metrics.versions'), color: (_: string, i: number) => wheel[i % 6] as string, format: (v: number | null) => rate(v, lang), max: 1 },
    bytes: { query: volume, title: t('metrics.bytes'), color: () => 'c6', format: (v: number | null) => (v === null ? '–' : `${bytes(v, lang)}/s`), max: 100 },
  };
  return (
    <>
      {show.map((id) => {
        const c = charts[id];
        return (
          <div key={id} className="col gap-s">
            <h3>{c.title}</h3>
            {c.query.data ? (
              <RangeChart data={c.query.data} title={c.title} color={c.color} format={c.format} height={height} max={c.max} binary={id === 'bytes'} {...(sync ? { sync } : {})} />
            ) : c.query.error ? (
              <Failure error={c.query.error} />
            ) : (
              <div style={{ height: height + 22 }}><Skeleton rows={3} /></div>
            )}
          </div>
        );
      })}
    </>
  );
}

function RangeChart({ data, title, color, format, height, sync, max, binary }: { data: Range; title: string; color: (label: string, i: number) => string; format: (v: number | null) => string; height: number; sync?: string; max: number; binary: boolean }) {
  const { t } = useT();
  const lines = useMemo<Line[]>(
    () => data.series.map((s, i) => ({ label: s.label || '–', color: color(s.label, i), values: s.values, fill: data.series.length === 1 })),
    // eslint-disable-next-line react-hooks/exhaustive-deps -- the colours follow from the data
    [data],
  );
  if (lines.length === 0) return <p className="muted small" style={{ height: height + 22 }}>{t('metrics.none')}</p>;
  return <Chart label={title} times={data.times} lines={lines} format={format} height={height} max={max} binary={binary} {...(sync ? { sync } : {})} />;
}
