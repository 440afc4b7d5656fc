import { useQuery } from '@tanstack/react-query';
import { useState } from 'react';
import { useLocation } from 'wouter';
import { traceIdPath } from '../api/jaeger';
import { q } from '../api/queries';
import { useT } from '../i18n';
import { useDebounced } from '../lib/hooks';
import { path, useParam, useSetParams } from '../lib/url';
import { TimeRange, useTime } from '../ui/live';
import { Failure, Head, Select } from '../ui/parts';
import { TraceList } from './tracelist';

/** `a=1 b="two words"` as an object. */
export function parseTags(text: string): Record<string, string> {
  const out: Record<string, string> = {};
  for (const match of text.matchAll(/([^\s=]+)=("([^"]*)"|\S*)/g)) out[match[1] as string] = match[3] ?? match[2] ?? '';
  return out;
}

export default function Traces() {
  const { t } = useT();
  const [, navigate] = useLocation();
  const time = useTime('900', 10_000);
  const set = useSetParams();
  const services = useQuery(q.jaegerServices());
  const names = [...(services.data?.data ?? [])].sort();
  const guess = names.find((n) => n.startsWith('istio-ingressgateway')) ?? names[0] ?? '';
  const [service] = useParam('service', guess);
  const [operation] = useParam('op');
  const [errors] = useParam('errors');
  const [min] = useParam('min');
  const [tags] = useParam('tags');
  const [limit] = useParam('limit', '50');
  const [id, setId] = useState('');
  const operations = useQuery(q.jaegerOperations(service)).data?.data ?? [];
  const minOk = min === '' || /^\d+(\.\d+)?(us|µs|ms|s|m)$/.test(min);
  const settled = useDebounced({ min: minOk ? min : '', tags }, 300);
  return (
    <>
      <Head title={t('nav.traces')} sub={t('trace.sub')}><TimeRange fallback="900" /></Head>
      {services.error && !services.data && <Failure error={services.error} retry={() => void services.refetch()} />}
      <div className="filters">
        <Select value={service} onChange={(v) => set({ service: v, op: null })} label={t('trace.service')} options={service && !names.includes(service) ? [service, ...names] : names} />
        <Select value={operation} onChange={(v) => set({ op: v })} label={t('trace.operation')} options={[...operations].sort()} all={t('trace.anyOperation')} />
        <input className="input w-s" value={min} aria-invalid={!minOk} onChange={(e) => set({ min: e.target.value.trim() })} placeholder={t('trace.min')} aria-label={t('trace.min')} title={t('trace.minHelp')} />
        <input className="input w-m" value={tags} onChange={(e) => set({ tags: e.target.value })} placeholder={t('trace.tags')} aria-label={t('trace.tags')} spellCheck={false} />
        <label className="check"><input type="checkbox" checked={errors === '1'} onChange={(e) => set({ errors: e.target.checked ? '1' : null })} />{t('trace.errorsOnly')}</label>
        <Select value={limit} onChange={(v) => set({ limit: v })} label={t('trace.limit')} options={['20', '50', '100', '500'].map((n) => ({ id: n, label: t('trace.limitN', { count: Number(n) }) }))} />
        <form className="row" onSubmit={(e) => { e.preventDefault(); if (id.trim()) navigate(path('traces', traceIdPath(id))); }}>
          <input className="input w-m mono" data-search value={id} onChange={(e) => setId(e.target.value)} placeholder={t('trace.byId')} aria-label={t('trace.byId')} spellCheck={false} />
        </form>
      </div>
      <TraceList service={service} operation={operation} errorsOnly={errors === '1'} minDuration={settled.min} tags={parseTags(settled.tags)} limit={Number(limit) || 50} window={time.window} end={time.end} every={time.every} />
    </>
  );
}
