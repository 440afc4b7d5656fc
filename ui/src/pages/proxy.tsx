/** One proxy: in sync or not, and its whole configuration with a search. */
import { useQuery } from '@tanstack/react-query';
import { useMemo } from 'react';
import { Link } from 'wouter';
import { q } from '../api/queries';
import { useT } from '../i18n';
import { bytes } from '../lib/format';
import { useDebounced } from '../lib/hooks';
import { href, useParam } from '../lib/url';
import { Icon } from '../ui/icons';
import { JsonTree, hits } from '../ui/jsontree';
import { CopyButton, Head, Loaded, Note, Panel, SearchBox, Tabs } from '../ui/parts';
import { Sync, types } from './proxies';

interface Section {
  id: string;
  label: string;
  value: unknown;
}

/** The parts of a config dump by the type they hold: BootstrapConfigDump → Bootstrap. */
export function sections(dump: unknown): Section[] {
  const configs = (dump as { configs?: unknown })?.configs;
  if (!Array.isArray(configs)) return [{ id: 'all', label: 'config_dump', value: dump }];
  return configs.map((c, i) => {
    const type = String((c as Record<string, unknown>)?.['@type'] ?? '');
    const name = /\.(\w+?)(ConfigDump)?$/.exec(type)?.[1] ?? String(i + 1);
    return { id: name.toLowerCase(), label: name, value: c };
  });
}

export default function ProxyPage({ namespace, pod }: { namespace: string; pod: string }) {
  const { t, lang } = useT();
  const proxies = useQuery(q.proxies(10_000));
  const proxy = proxies.data?.find((p) => p.namespace === namespace && p.pod === pod);
  const config = useQuery(q.proxyConfig(namespace, pod));
  const [find, setFind] = useParam('find');
  const [part, setPart] = useParam('part');
  const needle = useDebounced(find.trim(), 200);
  const parts = useMemo(() => (config.data === undefined ? [] : sections(config.data)), [config.data]);
  const counts = useMemo(() => new Map(parts.map((p) => [p.id, needle ? hits(p.value, needle).count : undefined])), [parts, needle]);
  const shown = parts.find((p) => p.id === part) ?? (needle ? parts.find((p) => (counts.get(p.id) ?? 0) > 0) : undefined) ?? parts[0];
  return (
    <>
      <Head title={pod} sub={namespace}>
        <Link href={href('/logs', { namespace, pod })} className="btn"><Icon name="logs" size={16} />{t('proxy.toLogs')}</Link>
        <button type="button" className="btn" onClick={() => void config.refetch()}><Icon name="retry" size={16} />{t('action.refresh')}</button>
      </Head>
      {proxy && (
        <div className="facts">
          {types.map((type) => <div key={type}><span>{type}</span><b><Sync type={type} state={proxy.sync[type]} /></b></div>)}
          <div><span>{t('col.version')}</span><b>{proxy.version}</b></div>
          {proxy.memoryBytes !== undefined && <div><span>{t('proxy.memory')}</span><b>{bytes(proxy.memoryBytes, lang)}</b></div>}
          <div className="grow"><span>{t('proxy.connectedTo')}</span><b className="break">{proxy.connectedTo || t('proxy.notConnected')}</b></div>
        </div>
      )}
      {proxies.data && !proxy && <Note tone="warn">{t('proxy.unknown')}</Note>}
      {proxy?.lastError && <Note tone="err">{proxy.lastError}</Note>}
      <Panel
        title={t('proxy.config')}
        actions={
          <div className="row">
            <SearchBox value={find} onChange={setFind} label={t('proxy.find')} />
            {shown && <CopyButton text={JSON.stringify(shown.value, null, 2)} label={t('proxy.copy')} />}
          </div>
        }
      >
        <Loaded query={config}>
          {() => (
            <div className="col gap-m">
              <Tabs label={t('proxy.config')} value={shown?.id ?? ''} onChange={setPart} tabs={parts.map((p) => ({ id: p.id, label: p.label, count: counts.get(p.id) }))} />
              {shown && <JsonTree value={shown.value} needle={needle} key={shown.id} />}
            </div>
          )}
        </Loaded>
      </Panel>
    </>
  );
}
