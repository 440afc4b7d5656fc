import { useQuery } from '@tanstack/react-query';
import { useMemo, useState } from 'react';
import { q } from '../api/queries';
import { useT } from '../i18n';
import { useDebounced } from '../lib/hooks';
import { knownFlags } from '../lib/flags';
import { useParam, useSetParams } from '../lib/url';
import { Dialog } from '../ui/dialog';
import { Icon } from '../ui/icons';
import { TimeRange, useTime } from '../ui/live';
import { Head, SearchBox, Seg, Select } from '../ui/parts';
import { LogList, LogTail } from './loglist';

const codes = ['2xx', '3xx', '4xx', '5xx', '200', '403', '404', '429', '503', '504', '0'];

function FlagsHelp({ close, choose }: { close: () => void; choose: (flag: string) => void }) {
  const { t } = useT();
  return (
    <Dialog title={t('log.flagsTitle')} onClose={close}>
      <p className="muted">{t('log.flagsIntro')}</p>
      <ul className="lines">
        {knownFlags.map((f) => (
          <li key={f} className="row top">
            <button type="button" className="chip err mono" onClick={() => choose(f)} title={t('log.flagSearch', { flag: f })}>{f}</button>
            <span>{t(`flags.${f}`)}</span>
          </li>
        ))}
      </ul>
    </Dialog>
  );
}

export default function Logs() {
  const { t } = useT();
  const time = useTime('900', 5000);
  const set = useSetParams();
  const [mode, setMode] = useParam('mode', 'search');
  const [pause] = useParam('pause');
  const [text, setText] = useParam('text');
  const [namespace] = useParam('namespace');
  const [workload] = useParam('workload');
  const [pod] = useParam('pod');
  const [code] = useParam('code');
  const [flag] = useParam('flag');
  const [traceId] = useParam('traceId');
  const [help, setHelp] = useState(false);
  const proxies = useQuery(q.proxies(false)).data;
  const namespaces = useMemo(() => [...new Set((proxies ?? []).map((p) => p.namespace))].sort(), [proxies]);
  const filter = { namespace, workload: useDebounced(workload), pod: useDebounced(pod), code, flag, traceId, text: useDebounced(text) };
  const tail = mode === 'tail';
  const withEnd = (extra: string, list: readonly string[]) => (extra && !list.includes(extra) ? [extra, ...list] : [...list]);
  const any = namespace || workload || pod || code || flag || traceId || text;
  return (
    <>
      <Head title={t('nav.logs')} sub={t('log.sub')}>
        <Seg label={t('log.mode')} value={tail ? 'tail' : 'search'} onChange={setMode} options={[{ id: 'search', label: t('log.search') }, { id: 'tail', label: t('log.tail') }]} />
        {tail ? (
          <button type="button" className="btn" aria-pressed={pause === '1'} onClick={() => set({ pause: pause === '1' ? null : '1' })}>
            <Icon name={pause === '1' ? 'play' : 'pause'} size={15} />
            {pause === '1' ? t('live.resume') : t('live.pause')}
          </button>
        ) : (
          <TimeRange fallback="900" />
        )}
      </Head>
      <div className="filters">
        <SearchBox value={text} onChange={setText} label={t('log.text')} />
        <Select value={namespace} onChange={(v) => set({ namespace: v })} label={t('col.namespace')} options={withEnd(namespace, namespaces)} all={t('filter.allNamespaces')} />
        <input className="input w-m" value={workload} onChange={(e) => set({ workload: e.target.value })} placeholder={t('log.workload')} aria-label={t('log.workload')} spellCheck={false} />
        <Select value={code} onChange={(v) => set({ code: v })} label={t('log.code')} options={withEnd(code, codes)} all={t('log.anyCode')} />
        <Select value={flag} onChange={(v) => set({ flag: v })} label={t('log.flag')} options={[{ id: 'any', label: t('log.someFlag') }, ...withEnd(flag === 'any' ? '' : flag, knownFlags).map((f) => ({ id: f, label: f }))]} all={t('log.anyFlag')} />
        <input className="input w-m mono" value={traceId} onChange={(e) => set({ traceId: e.target.value.trim() })} placeholder={t('log.traceId')} aria-label={t('log.traceId')} spellCheck={false} />
        {pod && <button type="button" className="chip acc" onClick={() => set({ pod: null })}>{pod}<Icon name="close" size={11} /></button>}
        {any && <button type="button" className="btn ghost s" onClick={() => set({ namespace: null, workload: null, pod: null, code: null, flag: null, traceId: null, text: null })}>{t('filter.clear')}</button>}
        <button type="button" className="btn ghost s" onClick={() => setHelp(true)}><Icon name="question" size={15} />{t('log.flagsHelp')}</button>
      </div>
      {tail ? <LogTail filter={filter} paused={pause === '1'} /> : <LogList filter={filter} window={time.window} end={time.end} every={time.every} />}
      {help && <FlagsHelp close={() => setHelp(false)} choose={(f) => { setHelp(false); set({ flag: f }); }} />}
    </>
  );
}
