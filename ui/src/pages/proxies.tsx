import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { Proxy, SyncState } from '../api/types';
import { useT } from '../i18n';
import { bytes } from '../lib/format';
import { path, useParam } from '../lib/url';
import { Icon } from '../ui/icons';
import { TimeRangeLive, useLive } from '../ui/livebutton';
import { Empty, Head, Loaded, Panel, SearchBox, Select } from '../ui/parts';
import { DataTable } from '../ui/table';

export const types = ['LDS', 'RDS', 'CDS', 'EDS', 'SDS'] as const;
const tones: Record<SyncState, string> = { SYNCED: 'ok', STALE: 'warn', 'NOT SENT': '', NACK: 'err' };
const key = { SYNCED: 'SYNCED', STALE: 'STALE', 'NOT SENT': 'NOT_SENT', NACK: 'NACK' } as const;

/** `brief` shows a mere tick where all is well, so that the rest stands out. */
export function Sync({ type, state, brief }: { type: string; state: SyncState; brief?: boolean }) {
  const { t } = useT();
  if (brief && state === 'SYNCED') return <span className="sync ok" role="img" aria-label={t('proxy.state_SYNCED')} title={`${type}: ${t('proxy.explain_SYNCED')}`}><Icon name="check" size={15} /></span>;
  return <span className={`sync ${tones[state]}`} title={`${type}: ${t(`proxy.explain_${key[state]}`)}`}><span className={`dot ${tones[state]}`} />{t(`proxy.state_${key[state]}`)}</span>;
}

const worst = (p: Proxy) => Math.max(...types.map((x) => ['SYNCED', 'NOT SENT', 'STALE', 'NACK'].indexOf(p.sync[x])), p.connectedTo ? 0 : 4);

export default function Proxies() {
  const { t, lang } = useT();
  const { every } = useLive(5000);
  const [text, setText] = useParam('q');
  const [kind, setKind] = useParam('kind');
  const [state, setState] = useParam('state');
  const query = useQuery(q.proxies(every));
  const rows = useMemo(() => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    return (query.data ?? []).filter((p) => (!kind || p.kind === kind) && (!state || (state === 'trouble' ? worst(p) > 1 : worst(p) <= 1)) && words.every((w) => `${p.pod} ${p.namespace} ${p.version}`.toLowerCase().includes(w)));
  }, [query.data, text, kind, state]);
  return (
    <>
      <Head title={t('nav.proxies')} sub={t('proxy.sub')}><TimeRangeLive /></Head>
      <div className="filters">
        <SearchBox value={text} onChange={setText} label={t('proxy.search')} />
        <Select value={kind} onChange={setKind} label={t('proxy.kind')} options={[{ id: 'sidecar', label: t('proxy.sidecar') }, { id: 'gateway', label: t('proxy.gateway') }]} all={t('proxy.allKinds')} />
        <Select value={state} onChange={setState} label={t('rules.state')} options={[{ id: 'fine', label: t('proxy.fine') }, { id: 'trouble', label: t('proxy.trouble') }]} all={t('rules.anyState')} />
      </div>
      <Panel flush>
        <Loaded query={query}>
          {(all) => (
            <DataTable
              label={t('nav.proxies')} rows={rows} rowKey={(p) => `${p.namespace}/${p.pod}`} rowHref={(p) => path('proxies', p.namespace, p.pod)} initialSort="state.desc"
              empty={all.length === 0 ? <Empty icon="proxies" title={t('overview.noProxies')} actions={<Link href="/learn/q0" className="btn">{t('services.noneAction')}</Link>}>{t('overview.noProxiesHelp')}</Empty> : <Empty icon="search" title={t('filter.nothing')} />}
              columns={[
                { id: 'state', header: t('proxy.overall'), sort: worst, width: 64, cell: (p) => <span className={`dot ${worst(p) > 2 ? 'err' : worst(p) > 1 ? 'warn' : 'ok'}`} role="img" aria-label={worst(p) > 1 ? t('proxy.trouble') : t('proxy.fine')} /> },
                {
                  id: 'pod', header: t('col.pod'), sort: (p) => p.pod,
                  cell: (p) => (
                    <div className="podcell">
                      <span className="faint" title={t(`proxy.${p.kind}`)}><Icon name={p.kind === 'gateway' ? 'gateways' : 'cube'} size={15} /></span>
                      <div className="grow">
                        <Link href={path('proxies', p.namespace, p.pod)} className="name break">{p.pod}</Link>
                        {p.lastError && <div className="small t-err break">{p.lastError}</div>}
                      </div>
                    </div>
                  ),
                },
                { id: 'ns', header: t('col.namespace'), keep: 'mid', sort: (p) => p.namespace, cell: (p) => <span className="muted nowrap">{p.namespace}</span> },
                ...types.map((type) => ({ id: type, header: type, keep: 'mid' as const, sort: (p: Proxy) => p.sync[type], cell: (p: Proxy) => <Sync type={type} state={p.sync[type] ?? 'NOT SENT'} brief /> })),
                { id: 'version', header: t('col.version'), keep: 'lo', sort: (p) => p.version, cell: (p) => <span className="nowrap">{p.version}</span> },
                ...(all.some((p) => p.memoryBytes !== undefined) ? [{ id: 'memory', header: t('proxy.memory'), keep: 'lo' as const, num: true, sort: (p: Proxy) => p.memoryBytes ?? null, cell: (p: Proxy) => bytes(p.memoryBytes, lang) }] : []),
                { id: 'to', header: t('proxy.connectedTo'), keep: 'xlo', sort: (p) => p.connectedTo, cell: (p) => p.connectedTo ? <span className="muted nowrap">{p.connectedTo}</span> : <span className="t-err">{t('proxy.notConnected')}</span> },
              ]}
            />
          )}
        </Loaded>
      </Panel>
    </>
  );
}
