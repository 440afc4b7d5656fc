/** One trace as a waterfall with an overview that zooms. */
import { useQuery } from '@tanstack/react-query';
import { useMemo, useRef, useState } from 'react';
import type { PointerEvent } from 'react';
import { Link } from 'wouter';
import { ApiError } from '../api/client';
import { buildTrace } from '../api/jaeger';
import type { Span, Trace as Tree } from '../api/jaeger';
import { q } from '../api/queries';
import { useT } from '../i18n';
import { dateTime, short, us } from '../lib/format';
import { href, useParam, useSetParams } from '../lib/url';
import { Icon } from '../ui/icons';
import { CopyButton, Empty, Head, Loaded, SearchBox } from '../ui/parts';

type View = [number, number];

/** The whole trace in miniature; dragging across it zooms the waterfall. */
function Minimap({ trace, view, onView, colors }: { trace: Tree; view: View; onView: (v: View) => void; colors: Map<string, number> }) {
  const { t, lang } = useT();
  const box = useRef<HTMLDivElement>(null);
  const [drag, setDrag] = useState<View | null>(null);
  const at = (e: PointerEvent) => {
    const r = box.current?.getBoundingClientRect();
    return r ? Math.min(1, Math.max(0, (e.clientX - r.left) / r.width)) : 0;
  };
  const height = Math.min(72, Math.max(24, trace.spans.length * 5));
  const lane = height / trace.spans.length;
  const shown: View = drag ? [Math.min(...drag), Math.max(...drag)] : view;
  return (
    <div
      ref={box}
      className="minimap"
      role="group"
      aria-label={t('trace.minimap')}
      onPointerDown={(e) => {
        e.currentTarget.setPointerCapture(e.pointerId);
        setDrag([at(e), at(e)]);
      }}
      onPointerMove={(e) => drag && setDrag([drag[0], at(e)])}
      onPointerUp={() => {
        if (drag) onView(Math.abs(drag[0] - drag[1]) < 0.005 ? [0, 1] : [Math.min(...drag), Math.max(...drag)]);
        setDrag(null);
      }}
    >
      <svg width="100%" height={height} viewBox={`0 0 1000 ${height}`} preserveAspectRatio="none" aria-hidden="true">
        {trace.spans.map((s, i) => (
          <rect key={s.id} x={(1000 * s.start) / trace.duration} y={i * lane} width={Math.max(1.5, (1000 * s.duration) / trace.duration)} height={Math.max(1, lane - 1)} className={s.error ? 'bad' : `f${(colors.get(s.service) ?? 0) + 1}`} />
        ))}
        {shown[0] > 0 && <rect x="0" y="0" width={1000 * shown[0]} height={height} className="veil" />}
        {shown[1] < 1 && <rect x={1000 * shown[1]} y="0" width={1000 * (1 - shown[1])} height={height} className="veil" />}
      </svg>
      <div className="ticks" aria-hidden="true">
        {[0, 0.25, 0.5, 0.75, 1].map((f) => <span key={f}>{us(trace.duration * f, lang)}</span>)}
      </div>
    </div>
  );
}

function SpanDetail({ span }: { span: Span }) {
  const { t, lang } = useT();
  const rows = (list: [string, string][]) => (
    <dl className="kv tags">
      {list.map(([k, v], i) => <div key={`${k}${i}`} className="pair"><dt className="mono">{k}</dt><dd className="mono break">{v}</dd></div>)}
    </dl>
  );
  return (
    <div className="spandetail">
      <div className="row wrap">
        <span className="chip">{t('trace.startsAt', { at: us(span.start, lang) })}</span>
        <span className="chip">{t('trace.takes', { duration: us(span.duration, lang) })}</span>
        {span.kind && <span className="chip">{span.kind}</span>}
        <span className="chip mono">{span.operation}</span>
        <span className="chip mono">{span.id}</span>
      </div>
      <h3>{t('trace.tagsTitle')}</h3>
      {rows(span.tags)}
      {span.process.length > 0 && <><h3>{t('trace.process')}</h3>{rows(span.process)}</>}
      {span.logs.length > 0 && (
        <>
          <h3>{t('trace.events')}</h3>
          <ul className="lines">
            {span.logs.map((l, i) => <li key={i} className="small"><b>{us(l.at, lang)}</b>{' '}{l.fields.map(([k, v]) => `${k}=${v}`).join(' ')}</li>)}
          </ul>
        </>
      )}
    </div>
  );
}

function Waterfall({ trace }: { trace: Tree }) {
  const { t, lang } = useT();
  const set = useSetParams();
  const [selected] = useParam('span');
  const [zoom] = useParam('zoom');
  const [find, setFind] = useParam('find');
  const [closed, setClosed] = useState<ReadonlySet<string>>(new Set());
  const parsed = zoom.split('-').map(Number);
  const view: View = parsed.length === 2 && parsed.every(Number.isFinite) && (parsed[0] as number) < (parsed[1] as number) ? [parsed[0] as number, parsed[1] as number] : [0, 1];
  const colors = useMemo(() => new Map(trace.services.map((s, i) => [s, i % 6])), [trace]);
  const visible = useMemo(() => {
    const out: Span[] = [];
    let hiddenBelow = Infinity;
    for (const s of trace.spans) {
      if (s.depth > hiddenBelow) continue;
      hiddenBelow = closed.has(s.id) ? s.depth : Infinity;
      out.push(s);
    }
    return out;
  }, [trace, closed]);
  const needle = find.toLowerCase();
  const hit = (s: Span) => needle !== '' && `${s.service} ${s.title} ${s.operation} ${s.tags.map((x) => x.join('=')).join(' ')}`.toLowerCase().includes(needle);
  const width = view[1] - view[0];
  const left = (us0: number) => 100 * ((us0 / trace.duration - view[0]) / width);
  const toggle = (id: string) => {
    const next = new Set(closed);
    if (!next.delete(id)) next.add(id);
    setClosed(next);
  };
  return (
    <>
      <div className="filters">
        <SearchBox value={find} onChange={setFind} label={t('trace.find')} />
        <div className="row wrap">
          {trace.services.map((s) => <span key={s} className="small nowrap"><i className={`swatch s${(colors.get(s) ?? 0) + 1}`} />{s}</span>)}
        </div>
      </div>
      <div className="panel waterfall">
        <Minimap trace={trace} view={view} colors={colors} onView={(v) => set({ zoom: v[0] === 0 && v[1] === 1 ? null : `${v[0].toFixed(4)}-${v[1].toFixed(4)}` })} />
        <div role="tree" aria-label={t('trace.waterfall')}>
          {visible.map((s) => {
            const open = selected === s.id;
            const l = left(s.start);
            const w = Math.max(0.25, (100 * s.duration) / trace.duration / width);
            return (
              <div key={s.id} role="treeitem" aria-level={s.depth + 1} aria-selected={open} aria-expanded={s.children > 0 ? !closed.has(s.id) : undefined} className={`span${open ? ' open' : ''}${hit(s) ? ' hit' : ''}`}>
                <div className="spanrow">
                  <div className="spanname" style={{ paddingLeft: 10 + Math.min(s.depth, 24) * 14 }}>
                    {s.children > 0 ? (
                      <button type="button" className="fold" onClick={() => toggle(s.id)} aria-label={closed.has(s.id) ? t('trace.unfold') : t('trace.fold')}>
                        <Icon name={closed.has(s.id) ? 'right' : 'down'} size={12} />
                      </button>
                    ) : (
                      <span className="fold" />
                    )}
                    <button type="button" className="label ellipsis" onClick={() => set({ span: open ? null : s.id })} aria-label={t('trace.spanLabel', { service: short(s.service), operation: s.title, duration: us(s.duration, lang) })}>
                      {s.error && <span className="t-err"><Icon name="alert" size={13} /></span>}
                      <b title={s.service}>{short(s.service)}</b> <span className="muted">{s.title}</span>
                    </button>
                  </div>
                  {/* eslint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/no-static-element-interactions -- the name beside it has the keys */}
                  <div className="spantrack" onClick={() => set({ span: open ? null : s.id })}>
                    <div className={`spanbar s${(colors.get(s.service) ?? 0) + 1}${s.error ? ' bad' : ''}`} style={{ left: `${l}%`, width: `${w}%` }} />
                  </div>
                  <span className={`spantime${s.error ? ' t-err' : ''}`}>{us(s.duration, lang)}{s.code && ` · ${s.code}`}</span>
                </div>
                {open && <SpanDetail span={s} />}
              </div>
            );
          })}
        </div>
      </div>
    </>
  );
}

export default function Trace({ id }: { id: string }) {
  const { t, lang } = useT();
  // A trace whose log line was just clicked may still be on its way.
  const query = useQuery({ ...q.trace(id), refetchInterval: (s) => (s.state.data?.data?.length ? false : 4000) });
  const missing = <><Head title={t('trace.id')} sub={id} /><Empty icon="traces" title={t('trace.missing')} actions={<Link className="btn" href="/traces">{t('trace.back')}</Link>}>{t('trace.missingHelp')}</Empty></>;
  if (query.error instanceof ApiError && query.error.status === 404) return missing;
  return (
    <Loaded query={query}>
      {(answer) => {
        const raw = answer.data?.[0];
        if (!raw || raw.spans.length === 0) {
          return missing;
        }
        const trace = buildTrace(raw);
        return (
          <>
            <Head title={<>{short(trace.root?.service ?? '')} <span className="muted">{trace.root?.title}</span></>} sub={dateTime(new Date(trace.startedAt), lang)}>
              <Link href={href('/logs', { traceId: trace.id, w: 86400 })} className="btn"><Icon name="logs" size={16} />{t('trace.toLogs')}</Link>
            </Head>
            <div className="facts">
              <div><span>{t('trace.duration')}</span><b>{us(trace.duration, lang)}</b></div>
              <div><span>{t('trace.spans')}</span><b>{trace.spans.length}</b></div>
              <div><span>{t('trace.depth')}</span><b>{trace.depth}</b></div>
              <div><span>{t('trace.services')}</span><b>{trace.services.length}</b></div>
              <div><span>{t('col.errors')}</span><b className={trace.errors ? 't-err' : ''}>{trace.errors}</b></div>
              <div className="grow"><span>{t('trace.id')}</span><b className="mono row gap-s"><span className="ellipsis">{trace.id}</span><CopyButton text={trace.id} /></b></div>
            </div>
            <Waterfall trace={trace} />
          </>
        );
      }}
    </Loaded>
  );
}
