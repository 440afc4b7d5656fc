import { useQuery } from '@tanstack/react-query';
import { Link, useLocation } from 'wouter';
import { q } from '../api/queries';
import type { Security as Data } from '../api/types';
import { useT } from '../i18n';
import { useNow } from '../lib/hooks';
import { path, useParam } from '../lib/url';
import { Menu } from '../ui/dialog';
import { Icon } from '../ui/icons';
import type { IconName } from '../ui/icons';
import { When, objectPath } from '../ui/objects';
import { CopyButton, Empty, Head, Loaded, Panel, SearchBox, Tabs } from '../ui/parts';
import { DataTable } from '../ui/table';

const modes: Record<Data['mtls'][number]['mode'], [string, IconName]> = { STRICT: ['ok', 'lock'], PERMISSIVE: ['warn', 'unlock'], DISABLE: ['err', 'unlock'] };

function Mode({ mode }: { mode: Data['mtls'][number]['mode'] }) {
  const { t } = useT();
  const [tone, icon] = modes[mode];
  return <span className={`chip ${tone}`} title={t(`security.explain_${mode}`)}><Icon name={icon} size={13} />{mode}</span>;
}

function Summary({ list }: { list: Data['mtls'] }) {
  const { t } = useT();
  const count = (m: string) => list.filter((x) => x.mode === m).length;
  const parts = [['STRICT', 'ok'], ['PERMISSIVE', 'warn'], ['DISABLE', 'err']] as const;
  return (
    <div className="panel pad col gap-m">
      <div className="bar tall" aria-hidden="true">{parts.map(([m, tone]) => <span key={m} className={tone} style={{ width: `${(100 * count(m)) / Math.max(1, list.length)}%` }} />)}</div>
      <div className="row wrap gap-l">
        {parts.map(([m, tone]) => <span key={m} className="row"><span className={`dot ${tone}`} /><b>{count(m)}</b><span>{m}</span><span className="muted small">{t(`security.explain_${m}`)}</span></span>)}
      </div>
    </div>
  );
}

export default function Security() {
  const { t } = useT();
  const [, navigate] = useLocation();
  const now = useNow(15_000);
  const query = useQuery(q.security());
  const [tab, setTab] = useParam('tab', 'mtls');
  const [text, setText] = useParam('q');
  const match = (...words: string[]) => words.join(' ').toLowerCase().includes(text.toLowerCase());
  const tone = (expires: string) => {
    const hours = (new Date(expires).getTime() - now.getTime()) / 3.6e6;
    return hours < 1 ? 'err' : hours < 6 ? 'warn' : 'ok';
  };
  return (
    <>
      <Head title={t('nav.security')} sub={t('security.sub')}>
        <Menu
          className="btn primary"
          label={t('security.new')}
          button={<><Icon name="plus" size={16} />{t('security.new')}</>}
          items={['PeerAuthentication', 'AuthorizationPolicy', 'RequestAuthentication'].map((k) => ({ id: k, label: k, run: () => navigate(path('rules', 'new', k)) }))}
        />
      </Head>
      <Tabs
        label={t('nav.security')}
        value={tab === 'policies' || tab === 'identities' ? tab : 'mtls'}
        onChange={setTab}
        tabs={[
          { id: 'mtls', label: t('security.mtls'), count: query.data?.mtls.length },
          { id: 'policies', label: t('security.policies'), count: query.data?.policies.length },
          { id: 'identities', label: t('security.identities'), count: query.data?.identities.length },
        ]}
      />
      <div className="filters"><SearchBox value={text} onChange={setText} label={t('security.search')} /></div>
      <Loaded query={query}>
        {(data) => (
          <>
            {tab !== 'policies' && tab !== 'identities' && (
              <>
                <Summary list={data.mtls} />
                <Panel flush>
                  <DataTable
                    label={t('security.mtls')} rows={data.mtls.filter((m) => match(m.namespace, m.workload, m.mode, m.from))} rowKey={(m) => `${m.namespace}/${m.workload}`} initialSort="workload.asc"
                    empty={<Empty icon="security" title={t('security.noWorkloads')}>{t('overview.noProxiesHelp')}</Empty>}
                    columns={[
                      { id: 'workload', header: t('col.workload'), sort: (m) => `${m.namespace}/${m.workload}`, cell: (m) => <span className="name break">{m.workload}</span> },
                      { id: 'ns', header: t('col.namespace'), keep: 'mid', sort: (m) => m.namespace, cell: (m) => <span className="muted">{m.namespace}</span> },
                      { id: 'mode', header: t('security.mode'), sort: (m) => m.mode, cell: (m) => <Mode mode={m.mode} /> },
                      {
                        id: 'from', header: t('security.from'), keep: 'mid', sort: (m) => m.from,
                        cell: (m) => {
                          const [ns, name] = m.from.split('/');
                          return ns && name ? <Link href={path('rules', 'PeerAuthentication', ns, name)}>{m.from}</Link> : <span className="muted">{m.from === 'default' ? t('security.fromDefault') : m.from}</span>;
                        },
                      },
                    ]}
                  />
                </Panel>
              </>
            )}
            {tab === 'policies' && (
              <Panel flush>
                <DataTable
                  label={t('security.policies')} rows={data.policies.filter((p) => match(p.kind, p.namespace, p.name, p.summary))} rowKey={(p) => `${p.kind}/${p.namespace}/${p.name}`} rowHref={objectPath} initialSort="kind.asc" sortParam="psort"
                  empty={<Empty icon="security" title={t('security.noPolicies')} actions={<Link href="/learn/q14" className="btn">{t('security.lesson')}</Link>}>{t('security.noPoliciesHelp')}</Empty>}
                  columns={[
                    { id: 'name', header: t('col.name'), sort: (p) => p.name, cell: (p) => <Link href={objectPath(p)} className="name break">{p.name}</Link> },
                    { id: 'kind', header: t('col.kind'), sort: (p) => p.kind, cell: (p) => <span className="break">{p.kind}</span> },
                    { id: 'ns', header: t('col.namespace'), keep: 'mid', sort: (p) => p.namespace, cell: (p) => <span className="muted">{p.namespace}</span> },
                    { id: 'action', header: t('security.action'), keep: 'mid', sort: (p) => p.action ?? '', cell: (p) => p.action && <span className={`chip ${p.action === 'DENY' ? 'err' : p.action === 'ALLOW' ? 'ok' : ''}`}>{p.action}</span> },
                    { id: 'scope', header: t('security.scope'), keep: 'mid', cell: (p) => <code className="break">{p.scope}</code> },
                    { id: 'summary', header: t('security.summary'), keep: 'lo', cell: (p) => <span className="muted break">{p.summary}</span> },
                  ]}
                />
              </Panel>
            )}
            {tab === 'identities' && (
              <Panel flush>
                <DataTable
                  label={t('security.identities')} rows={data.identities.filter((i) => match(i.pod, i.namespace, i.spiffe, i.serial))} rowKey={(i) => `${i.namespace}/${i.pod}`} initialSort="expires.asc" sortParam="csort"
                  empty={<Empty icon="key" title={t('security.noIdentities')}>{t('overview.noProxiesHelp')}</Empty>}
                  columns={[
                    { id: 'pod', header: t('col.pod'), sort: (i) => i.pod, cell: (i) => <Link href={path('proxies', i.namespace, i.pod)} className="name break">{i.pod}</Link> },
                    { id: 'spiffe', header: t('security.identity'), keep: 'mid', sort: (i) => i.spiffe, cell: (i) => <span className="row gap-s"><code className="break">{i.spiffe}</code><CopyButton text={i.spiffe} /></span> },
                    { id: 'serial', header: t('security.serial'), keep: 'lo', cell: (i) => <code className="faint">{i.serial.slice(0, 16)}</code> },
                    { id: 'expires', header: t('security.expires'), num: true, sort: (i) => i.expires, cell: (i) => <span className={`t-${tone(i.expires)}`}><When time={i.expires} /></span> },
                  ]}
                />
              </Panel>
            )}
          </>
        )}
      </Loaded>
    </>
  );
}
