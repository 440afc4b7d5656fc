/** Access log lines: a virtual list whose rows open. Used by the log page and by services. */
import { useInfiniteQuery } from '@tanstack/react-query';
import { useVirtualizer } from '@tanstack/react-virtual';
import { useEffect, useMemo, useRef, useState } from 'react';
import { Link } from 'wouter';
import { get, url } from '../api/client';
import { follow } from '../api/sse';
import type { StreamState } from '../api/sse';
import type { LogLine } from '../api/types';
import { useT } from '../i18n';
import { isKnownFlag } from '../lib/flags';
import { bytes, dateTime, ms, short, timeOfDay } from '../lib/format';
import { path } from '../lib/url';
import { Icon } from '../ui/icons';
import { CopyButton, Empty, Failure, Skeleton } from '../ui/parts';

export interface LogFilter {
  namespace?: string | undefined;
  workload?: string | undefined;
  pod?: string | undefined;
  code?: string | undefined;
  flag?: string | undefined;
  text?: string | undefined;
  traceId?: string | undefined;
}

const clean = (filter: LogFilter) => Object.fromEntries(Object.entries(filter).filter(([, v]) => v)) as LogFilter;
/** The most lines a tail keeps. */
const keep = 2000;

function codeTone(line: LogLine) {
  if (line.code === 0) return line.flags.length > 0 ? 'err' : '';
  return line.code >= 500 ? 'err' : line.code >= 400 ? 'warn' : line.code >= 300 ? 'acc' : 'ok';
}

function Flags({ flags }: { flags: string[] }) {
  const { t } = useT();
  return (
    <>
      {flags.map((f) => <span key={f} className="chip err mono" title={isKnownFlag(f) ? t(`flags.${f}`) : f}>{f}</span>)}
    </>
  );
}

function Detail({ line }: { line: LogLine }) {
  const { t, lang } = useT();
  const rows: [string, string][] = [
    [t('log.time'), dateTime(new Date(line.time), lang)],
    [t('log.pod'), `${line.namespace}/${line.pod}`],
    [t('log.reporter'), t(`log.${line.reporter}`)],
    [t('log.way'), `${line.source || '?'} → ${line.destination || '?'}`],
    [t('log.authority'), line.authority],
    [t('log.route'), line.route],
    [t('log.upstream'), [line.upstreamHost, line.upstreamCluster].filter(Boolean).join(' · ')],
    [t('log.sizes'), t('log.sizesText', { received: bytes(line.bytesReceived, lang), sent: bytes(line.bytesSent, lang) })],
    [t('log.protocol'), line.protocol],
    [t('log.userAgent'), line.userAgent],
    [t('log.requestId'), line.requestId],
  ];
  return (
    <div className="logdetail">
      {line.flags.map((f) => (
        <p key={f} className="row top"><span className="chip err mono">{f}</span><span>{isKnownFlag(f) ? t(`flags.${f}`) : t('flags.unknown')}</span></p>
      ))}
      <dl className="kv">
        {rows.filter(([, v]) => v).map(([k, v]) => (
          <div key={k} className="pair"><dt>{k}</dt><dd className="mono">{v}</dd></div>
        ))}
      </dl>
      <div className="row wrap">
        {line.traceId && <Link href={path('traces', line.traceId)} className="btn s"><Icon name="traces" size={14} />{t('log.toTrace')}</Link>}
        <CopyButton text={JSON.stringify(line, null, 2)} label={t('log.copy')} />
      </div>
    </div>
  );
}

const keyOf = (l: LogLine) => `${l.time}|${l.pod}|${l.requestId}|${l.reporter}`;

export function LogRows({ lines, more, loading }: { lines: LogLine[]; more?: () => void; loading?: boolean }) {
  const { t, lang } = useT();
  const [open, setOpen] = useState<string | null>(null);
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: lines.length, getScrollElement: () => scroller.current, estimateSize: () => 30, overscan: 16, getItemKey: (i) => `${i}:${keyOf(lines[i] as LogLine)}` });
  const items = virtual.getVirtualItems();
  const last = items[items.length - 1]?.index ?? 0;
  useEffect(() => {
    if (more && !loading && last >= lines.length - 20) more();
  }, [more, loading, last, lines.length]);
  return (
    // eslint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- scrolls by keyboard
    <div className="loglist" ref={scroller} tabIndex={0} role="region" aria-label={t('nav.logs')}>
      <div style={{ height: virtual.getTotalSize(), position: 'relative' }}>
        {items.map((item) => {
          const line = lines[item.index] as LogLine;
          const key = keyOf(line);
          const at = timeOfDay(new Date(line.time), lang, true).padEnd(4);
          return (
            <div key={item.key} data-index={item.index} ref={virtual.measureElement} className={`logitem${open === key ? ' open' : ''}`} style={{ transform: `translateY(${item.start}px)` }}>
              <button type="button" className="logline" aria-expanded={open === key} onClick={() => setOpen(open === key ? null : key)}>
                <span className="l-time">{at.slice(0, -4)}<i>{at.slice(-4)}</i></span>
                <span className={`l-code t-${codeTone(line)}`}>{line.code === 0 ? 'TCP' : line.code}</span>
                <span className="l-method">{line.method}</span>
                <span className="l-path ellipsis">{line.path || line.authority}</span>
                <span className="l-flags"><Flags flags={line.flags} /></span>
                <span className="l-way ellipsis" title={`${line.source || '?'} → ${line.destination || '?'}`}>{short(line.source) || '?'}{' → '}{short(line.destination) || '?'}</span>
                <span className="l-ms">{ms(line.durationMs, lang)}</span>
              </button>
              {open === key && <Detail line={line} />}
            </div>
          );
        })}
      </div>
      {loading && <p className="muted small pad">{t('state.loading')}</p>}
    </div>
  );
}

/** Search: pages into the past; with `every`, asks for newer lines again. */
export function LogList({ filter, window, end, every }: { filter: LogFilter; window: number; end?: number | undefined; every: number | false }) {
  const { t } = useT();
  const wanted = clean(filter);
  const query = useInfiniteQuery({
    queryKey: ['logs', wanted, window, end ?? null],
    initialPageParam: '',
    queryFn: ({ pageParam, signal }) => {
      const to = end ?? Date.now() / 1000;
      return get('/api/malla/v1/logs', {
        query: { ...wanted, from: Math.round(to - window), ...(end ? { to: Math.round(end) } : {}), limit: 200, ...(pageParam ? { cursor: pageParam } : {}) },
        signal,
      });
    },
    getNextPageParam: (page) => page.cursor ?? undefined,
    refetchInterval: (state) => ((state.state.data?.pages.length ?? 0) > 1 ? false : every),
  });
  const lines = useMemo(() => query.data?.pages.flatMap((p) => p.lines) ?? [], [query.data]);
  if (query.error && !query.data) return <Failure error={query.error} retry={() => void query.refetch()} />;
  if (query.isPending) return <div className="panel pad"><Skeleton rows={10} /></div>;
  if (lines.length === 0) return <div className="panel"><Empty icon="logs" title={t('log.none')}>{t('log.noneHelp')}</Empty></div>;
  return (
    <div className="panel">
      <LogRows lines={lines} loading={query.isFetchingNextPage} {...(query.hasNextPage ? { more: () => void query.fetchNextPage() } : {})} />
    </div>
  );
}

/** Follows the log; newest first. Lines wait a moment so that a burst is one redraw. */
export function LogTail({ filter, paused }: { filter: LogFilter; paused: boolean }) {
  const { t } = useT();
  const [lines, setLines] = useState<LogLine[]>([]);
  const [state, setState] = useState<StreamState>('connecting');
  const target = url('/api/malla/v1/logs/stream', undefined, clean(filter) as Record<string, unknown>);
  useEffect(() => {
    setLines([]);
  }, [target]);
  useEffect(() => {
    if (paused) return;
    let waiting: LogLine[] = [];
    const timer = setInterval(() => {
      if (waiting.length === 0) return;
      const batch = waiting.reverse();
      waiting = [];
      setLines((old) => [...batch, ...old].slice(0, keep));
    }, 250);
    const stop = follow(target, { line: (data) => { if (waiting.length < keep) waiting.push(data as LogLine); } }, setState);
    return () => {
      clearInterval(timer);
      stop();
    };
  }, [target, paused]);
  return (
    <div className="panel">
      <p className="row small muted pad" aria-live="off">
        <span className={`livedot${paused ? ' off' : state === 'lost' ? ' lost' : ''}`} />
        {paused ? t('log.tailPaused', { count: lines.length }) : state === 'lost' ? t('live.lost') : t('log.tailing', { count: lines.length })}
      </p>
      {lines.length === 0 ? <Empty icon="logs" title={t('log.waiting')}>{t('log.waitingHelp')}</Empty> : <LogRows lines={lines} />}
    </div>
  );
}
