/** Traces that a search found: a picture of their durations over time, and the list. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link, useLocation } from 'wouter';
import { get } from '../api/client';
import { buildTrace } from '../api/jaeger';
import type { Trace } from '../api/jaeger';
import { useT } from '../i18n';
import { short, timeOfDay, us } from '../lib/format';
import { useSize } from '../lib/hooks';
import { path } from '../lib/url';
import { Empty, Failure, Skeleton } from '../ui/parts';
import { DataTable } from '../ui/table';

export interface TraceSearch {
  service: string;
  operation?: string;
  errorsOnly?: boolean;
  minDuration?: string;
  maxDuration?: string;
  tags?: Record<string, string>;
  limit?: number;
  window: number;
  end?: number | undefined;
  every: number | false;
}

function useTraces(s: TraceSearch) {
  const tags = { ...s.tags, ...(s.errorsOnly ? { error: 'true' } : {}) };
  return useQuery({
    queryKey: ['traces', s.service, s.operation, tags, s.minDuration, s.maxDuration, s.limit, s.window, s.end ?? null],
    queryFn: async ({ signal }) => {
      const end = (s.end ?? Date.now() / 1000) * 1e6;
      const answer = await get('/jaeger/api/traces', {
        query: {
          service: s.service,
          operation: s.operation ?? '',
          ...(Object.keys(tags).length > 0 ? { tags: JSON.stringify(tags) } : {}),
          minDuration: s.minDuration ?? '',
          maxDuration: s.maxDuration ?? '',
          limit: s.limit ?? 20,
          start: Math.round(end - s.window * 1e6),
          end: Math.round(end),
        },
        signal,
      });
      return (answer.data ?? []).filter((t) => t.spans.length > 0).map(buildTrace).sort((a, b) => b.startedAt - a.startedAt);
    },
    enabled: s.service !== '',
    refetchInterval: s.every,
  });
}

/** Each trace a dot: when, how long, how many spans, red for errors. */
function Scatter({ traces }: { traces: Trace[] }) {
  const { t, lang } = useT();
  const [, navigate] = useLocation();
  const [box, { width }] = useSize<HTMLDivElement>();
  const height = 132;
  const pad = { left: 56, right: 12, top: 10, bottom: 22 };
  const from = Math.min(...traces.map((x) => x.startedAt));
  const to = Math.max(...traces.map((x) => x.startedAt), from + 1);
  const top = Math.max(...traces.map((x) => x.duration)) * 1.1;
  const x = (at: number) => pad.left + ((at - from) / (to - from)) * Math.max(1, width - pad.left - pad.right);
  const y = (d: number) => height - pad.bottom - (d / top) * (height - pad.top - pad.bottom);
  return (
    <div ref={box} className="panel scatter" style={{ height }}>
      {width > 0 && (
        <svg width={width} height={height} role="img" aria-label={t('trace.scatter')}>
          {[0, 0.5, 1].map((f) => (
            <g key={f}>
              <line x1={pad.left} x2={width - pad.right} y1={y(top * f)} y2={y(top * f)} className="gridline" />
              <text x={pad.left - 8} y={y(top * f) + 4} textAnchor="end">{us(top * f, lang)}</text>
            </g>
          ))}
          {[0, 0.5, 1].map((f) => (
            <text key={f} x={x(from + (to - from) * f)} y={height - 6} textAnchor={f === 0 ? 'start' : f === 1 ? 'end' : 'middle'}>{timeOfDay(new Date(from + (to - from) * f), lang)}</text>
          ))}
          {traces.map((trace) => (
             
            <circle key={trace.id} cx={x(trace.startedAt)} cy={y(trace.duration)} r={Math.min(9, 3 + trace.spans.length * 0.4)} className={trace.errors > 0 ? 'bad' : undefined} onClick={() => navigate(path('traces', trace.id))}>
              <title>{`${trace.root?.service ?? ''} ${trace.root?.title ?? ''} · ${us(trace.duration, lang)}`}</title>
            </circle>
          ))}
        </svg>
      )}
    </div>
  );
}

export function TraceList(search: TraceSearch) {
  const { t, lang } = useT();
  const query = useTraces(search);
  const traces = useMemo(() => query.data ?? [], [query.data]);
  if (search.service === '') return <div className="panel"><Empty icon="traces" title={t('trace.choose')}>{t('trace.chooseHelp')}</Empty></div>;
  if (query.error && !query.data) return <Failure error={query.error} retry={() => void query.refetch()} />;
  if (query.isPending) return <div className="panel pad"><Skeleton rows={8} /></div>;
  if (traces.length === 0) return <div className="panel"><Empty icon="traces" title={t('trace.none')}>{t('trace.noneHelp')}</Empty></div>;
  const longest = Math.max(...traces.map((x) => x.duration));
  return (
    <>
      <Scatter traces={traces} />
      <div className="panel">
        <DataTable
          label={t('nav.traces')}
          rows={traces}
          rowKey={(x) => x.id}
          rowHref={(x) => path('traces', x.id)}
          initialSort="time.desc"
          sortParam="tsort"
          columns={[
            { id: 'time', header: t('log.time'), num: true, sort: (x) => x.startedAt, cell: (x) => timeOfDay(new Date(x.startedAt), lang, true), width: 110 },
            {
              id: 'root', header: t('trace.root'), sort: (x) => `${x.root?.service} ${x.root?.title}`,
              cell: (x) => (
                <div className="row gap-s">
                  <Link href={path('traces', x.id)} className="name">{short(x.root?.service ?? '')}</Link>
                  <span className="muted break">{x.root?.title}</span>
                  {x.errors > 0 && <span className="chip err">{t('trace.errors', { count: x.errors })}</span>}
                </div>
              ),
            },
            { id: 'spans', header: t('trace.spans'), num: true, keep: 'mid', sort: (x) => x.spans.length, cell: (x) => x.spans.length },
            { id: 'services', header: t('trace.services'), keep: 'lo', cell: (x) => <span className="small muted" title={x.services.join(', ')}>{x.services.map(short).join(', ')}</span> },
            {
              id: 'duration', header: t('trace.duration'), num: true, sort: (x) => x.duration, width: 150,
              cell: (x) => <span className="lenbar"><span className="bar" aria-hidden="true"><span className={x.errors > 0 ? 'err' : undefined} style={{ width: `${(100 * x.duration) / longest}%` }} /></span>{us(x.duration, lang)}</span>,
            },
          ]}
        />
      </div>
    </>
  );
}
