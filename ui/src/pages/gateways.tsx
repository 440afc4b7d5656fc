import { useQuery } from '@tanstack/react-query';
import { Link } from 'wouter';
import { q } from '../api/queries';
import type { GatewaySummary } from '../api/types';
import { useT } from '../i18n';
import { ms, rate, share } from '../lib/format';
import { path, useParam } from '../lib/url';
import { Icon } from '../ui/icons';
import { TimeRangeLive, useLive } from '../ui/livebutton';
import { Findings, ObjectLink, When } from '../ui/objects';
import { CopyButton, Empty, Head, Loaded, Panel, SearchBox, shareTone } from '../ui/parts';

/** Addresses come from the cluster: only web addresses become links. */
const isWeb = (address: string) => /^https?:\/\/[^\s]+$/i.test(address);

function Servers({ gateway }: { gateway: GatewaySummary }) {
  const { t } = useT();
  return (
    <div className="tablewrap">
      <table className="table flat">
        <thead>
          <tr>
            <th scope="col">{t('gateway.listener')}</th>
            <th scope="col">{t('gateway.state')}</th>
            <th scope="col">{t('gateway.hosts')}</th>
            <th scope="col" className="mid">{t('gateway.certificate')}</th>
          </tr>
        </thead>
        <tbody>
          {gateway.servers.map((s, i) => (
            <tr key={i}>
              <td className="nowrap"><b>{s.port}</b>{' '}{s.protocol}{s.name && <span className="faint">{' '}{s.name}</span>}</td>
              <td className="nowrap"><span className={`dot ${s.open ? 'ok' : 'err'}`} />{' '}{s.open ? t('gateway.open') : t('gateway.closed')}</td>
              <td><span className="row wrap gap-s">{s.hosts.map((h) => <span key={h} className="chip mono break">{h}</span>)}</span></td>
              <td className="mid">
                {s.tls ? (
                  <>
                    {s.tls.mode}{s.tls.credential && <>{' · '}<code>{s.tls.credential}</code></>}
                    {s.tls.redirect && <span className="chip">{t('gateway.redirect')}</span>}
                    {s.tls.expires && <div className="small muted">{t('gateway.expires')}{' '}<When time={s.tls.expires} /></div>}
                  </>
                ) : (
                  <span className="faint">{t('gateway.plain')}</span>
                )}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Card({ gateway }: { gateway: GatewaySummary }) {
  const { t, lang } = useT();
  return (
    <Panel
      title={<Link href={path('rules', 'Gateway', gateway.namespace, gateway.name)}>{gateway.name}<span className="faint">{' '}{gateway.namespace}</span></Link>}
      actions={
        <>
          <span className="chip">{rate(gateway.rps, lang)}</span>
          <span className={`chip ${shareTone(gateway.errorShare)}`}>{t('gateway.errors', { share: share(gateway.errorShare, lang) })}</span>
          <span className="chip">{t('gateway.p99', { p99: ms(gateway.p99, lang) })}</span>
        </>
      }
    >
      <div className="col gap-l">
        <Servers gateway={gateway} />
        <dl className="kv">
          <dt>{t('gateway.addresses')}</dt>
          <dd>
            {gateway.addresses.length === 0 ? <span className="t-warn">{t('gateway.noAddress')}</span> : gateway.addresses.map((a) => (
              <div key={a} className="row gap-s">{isWeb(a) ? <a href={a} target="_blank" rel="noreferrer noopener" className="mono break">{a}{' '}<Icon name="external" size={13} /></a> : <span className="mono break">{a}</span>}<CopyButton text={a} /></div>
            ))}
          </dd>
          <dt>{t('gateway.pods')}</dt>
          <dd>{gateway.pods.length === 0 ? <span className="t-err">{t('gateway.noPods')}</span> : gateway.pods.map((p) => {
            const [ns = '', pod = ''] = p.split('/');
            return <div key={p}><Link href={path('proxies', ns, pod)} className="break">{pod || p}</Link></div>;
          })}</dd>
          <dt>{t('gateway.selector')}</dt>
          <dd className="row wrap gap-s">{Object.entries(gateway.selector).map(([k, v]) => <span key={k} className="chip mono">{k}{'='}{v}</span>)}</dd>
          <dt>{t('gateway.routes')}</dt>
          <dd>{gateway.virtualServices.length === 0 ? <span className="t-warn">{t('gateway.noRoutes')}</span> : gateway.virtualServices.map((v) => <div key={`${v.namespace}/${v.name}`}><ObjectLink of={v} />{v.summary && <span className="small muted">{' '}{v.summary}</span>}</div>)}</dd>
        </dl>
        {gateway.findings.length > 0 && <Findings list={gateway.findings} />}
      </div>
    </Panel>
  );
}

export default function Gateways() {
  const { t } = useT();
  const { every } = useLive(5000);
  const [text, setText] = useParam('q');
  const query = useQuery(q.gateways(every));
  return (
    <>
      <Head title={t('nav.gateways')} sub={t('gateway.sub')}>
        <TimeRangeLive />
        <Link href="/rules/new/Gateway" className="btn primary"><Icon name="plus" size={16} />{t('gateway.new')}</Link>
      </Head>
      <Loaded query={query}>
        {(list) => {
          const found = list.filter((g) => `${g.name} ${g.namespace} ${g.servers.flatMap((s) => s.hosts).join(' ')}`.toLowerCase().includes(text.toLowerCase()));
          if (list.length === 0) return <div className="panel"><Empty icon="gateways" title={t('gateway.none')} actions={<><Link href="/rules/new/Gateway" className="btn primary">{t('gateway.new')}</Link><Link href="/learn/q1" className="btn">{t('rules.noneLesson')}</Link></>}>{t('gateway.noneHelp')}</Empty></div>;
          return (
            <>
              {list.length > 2 && <div className="filters"><SearchBox value={text} onChange={setText} label={t('gateway.search')} /></div>}
              <div className="grid cards">{found.map((g) => <Card key={`${g.namespace}/${g.name}`} gateway={g} />)}</div>
            </>
          );
        }}
      </Loaded>
    </>
  );
}
