/** The guided form of a DestinationRule: versions, load balancing, pools, ejection, TLS. */
import { useT } from '../../i18n';
import type { Knowledge } from '../editor';
import type { Json, Path } from '../yamldoc';
import { AddButton, ChipsField, ChoiceField, Entry, Meta, NumberField, Others, PairsField, Section, TextField } from './edit';
import type { Edit } from './edit';

const policy: Path = ['spec', 'trafficPolicy'];
type Balance = '' | 'simple' | 'header' | 'cookie' | 'ip' | 'query';

function balanceOf(edit: Edit): Balance {
  const hash: Path = [...policy, 'loadBalancer', 'consistentHash'];
  if (edit.get([...hash, 'httpHeaderName']) !== undefined) return 'header';
  if (edit.get([...hash, 'httpCookie']) !== undefined) return 'cookie';
  if (edit.get([...hash, 'useSourceIp']) !== undefined) return 'ip';
  if (edit.get([...hash, 'httpQueryParameterName']) !== undefined) return 'query';
  return edit.get([...policy, 'loadBalancer', 'simple']) !== undefined ? 'simple' : '';
}

/** What choosing a way to balance writes. Locality settings beside it stay. */
const written: Record<Exclude<Balance, ''>, { [key: string]: Json }> = {
  simple: { simple: 'LEAST_REQUEST' },
  header: { consistentHash: { httpHeaderName: 'UserID' } },
  cookie: { consistentHash: { httpCookie: { name: 'session', ttl: '0s' } } },
  ip: { consistentHash: { useSourceIp: true } },
  query: { consistentHash: { httpQueryParameterName: 'user' } },
};

function Balancing({ edit }: { edit: Edit }) {
  const { t } = useT();
  const lb: Path = [...policy, 'loadBalancer'];
  const now = balanceOf(edit);
  const choose = (next: Balance) => {
    const old = edit.get(lb);
    const kept = old !== null && typeof old === 'object' && !Array.isArray(old) ? Object.fromEntries(Object.entries(old).filter(([k]) => k !== 'simple' && k !== 'consistentHash')) : {};
    const value = next === '' ? kept : { ...written[next], ...kept };
    edit.set(lb, Object.keys(value).length > 0 ? value : undefined);
  };
  return (
    <Section title={t('form.balancing')} open={now !== ''} count={now === '' ? 0 : 1}>
      <div className="formgrid">
        <label className="field">
          <span className="lab">{t('form.balance')}</span>
          <select className="input" value={now} onChange={(e) => choose(e.target.value as Balance)}>
            <option value="">{t('form.balanceDefault')}</option>
            {(['simple', 'header', 'cookie', 'ip', 'query'] as const).map((b) => <option key={b} value={b}>{t(`form.balance_${b}`)}</option>)}
          </select>
        </label>
        {now === 'simple' && <ChoiceField edit={edit} path={[...lb, 'simple']} label={t('form.algorithm')} options={['LEAST_REQUEST', 'ROUND_ROBIN', 'RANDOM', 'PASSTHROUGH']} />}
        {now === 'header' && <TextField edit={edit} path={[...lb, 'consistentHash', 'httpHeaderName']} label={t('form.headerName')} />}
        {now === 'query' && <TextField edit={edit} path={[...lb, 'consistentHash', 'httpQueryParameterName']} label={t('form.queryName')} />}
        {now === 'cookie' && (
          <>
            <TextField edit={edit} path={[...lb, 'consistentHash', 'httpCookie', 'name']} label={t('form.cookieName')} />
            <TextField edit={edit} path={[...lb, 'consistentHash', 'httpCookie', 'ttl']} label={t('form.cookieTtl')} placeholder="0s" />
          </>
        )}
      </div>
      <Others edit={edit} path={lb} known={['simple', 'consistentHash']} />
    </Section>
  );
}

function Pool({ edit }: { edit: Edit }) {
  const { t } = useT();
  const tcp: Path = [...policy, 'connectionPool', 'tcp'];
  const http: Path = [...policy, 'connectionPool', 'http'];
  const count = edit.keys(tcp).length + edit.keys(http).length;
  return (
    <Section title={t('form.pool')} hint={t('form.poolHint')} open={count > 0} count={count}>
      <div className="formgrid three">
        <NumberField edit={edit} path={[...tcp, 'maxConnections']} label={t('form.maxConnections')} />
        <TextField edit={edit} path={[...tcp, 'connectTimeout']} label={t('form.connectTimeout')} placeholder="10s" />
        <NumberField edit={edit} path={[...http, 'http1MaxPendingRequests']} label={t('form.maxPending')} />
        <NumberField edit={edit} path={[...http, 'http2MaxRequests']} label={t('form.maxRequests')} />
        <NumberField edit={edit} path={[...http, 'maxRequestsPerConnection']} label={t('form.perConnection')} />
        <NumberField edit={edit} path={[...http, 'maxRetries']} label={t('form.maxRetries')} />
      </div>
      <Others edit={edit} path={tcp} known={['maxConnections', 'connectTimeout']} />
      <Others edit={edit} path={http} known={['http1MaxPendingRequests', 'http2MaxRequests', 'maxRequestsPerConnection', 'maxRetries']} />
    </Section>
  );
}

function Ejection({ edit }: { edit: Edit }) {
  const { t } = useT();
  const od: Path = [...policy, 'outlierDetection'];
  const count = edit.keys(od).length;
  return (
    <Section title={t('form.ejection')} hint={t('form.ejectionHint')} open={count > 0} count={count}>
      <div className="formgrid three">
        <NumberField edit={edit} path={[...od, 'consecutive5xxErrors']} label={t('form.consecutive5xx')} />
        <NumberField edit={edit} path={[...od, 'consecutiveGatewayErrors']} label={t('form.consecutiveGateway')} />
        <TextField edit={edit} path={[...od, 'interval']} label={t('form.interval')} placeholder="10s" />
        <TextField edit={edit} path={[...od, 'baseEjectionTime']} label={t('form.baseEjection')} placeholder="30s" />
        <NumberField edit={edit} path={[...od, 'maxEjectionPercent']} label={t('form.maxEjection')} max={100} />
        <NumberField edit={edit} path={[...od, 'minHealthPercent']} label={t('form.minHealth')} max={100} />
      </div>
      <Others edit={edit} path={od} known={['consecutive5xxErrors', 'consecutiveGatewayErrors', 'interval', 'baseEjectionTime', 'maxEjectionPercent', 'minHealthPercent']} />
    </Section>
  );
}

export function DestinationRuleForm({ edit, knowledge, isNew }: { edit: Edit; knowledge: Knowledge; isNew: boolean }) {
  const { t } = useT();
  const subsets: Path = ['spec', 'subsets'];
  const tls: Path = [...policy, 'tls'];
  const next = () => `v${edit.list(subsets).length + 1}`;
  return (
    <div className="form">
      <section className="panel formpart">
        <Meta edit={edit} isNew={isNew} />
        <TextField edit={edit} path={['spec', 'host']} label={t('form.host')} hint={t('form.hostHint')} options={knowledge.hosts} />
      </section>
      <section className="panel formpart">
        <h2>{t('form.subsets')}</h2>
        <p className="small muted">{t('form.subsetsHint')}</p>
        {edit.list(subsets).map((_, i) => (
          <Entry key={i} edit={edit} list={subsets} index={i} title={<b>{edit.text([...subsets, i, 'name'])}</b>} removeLabel={t('form.removeSubset')}>
            <div className="formgrid">
              <TextField edit={edit} path={[...subsets, i, 'name']} label={t('col.name')} />
              <PairsField edit={edit} path={[...subsets, i, 'labels']} label={t('form.labels')} />
            </div>
            <Others edit={edit} path={[...subsets, i]} known={['name', 'labels']} />
          </Entry>
        ))}
        <AddButton label={t('form.addSubset')} onClick={() => edit.add(subsets, { name: next(), labels: { version: next() } })} />
      </section>
      <section className="panel formpart">
        <h2>{t('form.trafficPolicy')}</h2>
        <Balancing edit={edit} />
        <Pool edit={edit} />
        <Ejection edit={edit} />
        <Section title={t('form.clientTls')} open={edit.keys(tls).length > 0} count={edit.keys(tls).length}>
          <div className="formgrid">
            <ChoiceField edit={edit} path={[...tls, 'mode']} label={t('form.tlsMode')} options={['ISTIO_MUTUAL', 'SIMPLE', 'MUTUAL', 'DISABLE']} none={t('form.automatic')} />
            <TextField edit={edit} path={[...tls, 'sni']} label={t('form.sni')} />
          </div>
          <Others edit={edit} path={tls} known={['mode', 'sni']} />
        </Section>
        <Others edit={edit} path={policy} known={['loadBalancer', 'connectionPool', 'outlierDetection', 'tls']} />
      </section>
      <section className="panel formpart">
        <ChipsField edit={edit} path={['spec', 'exportTo']} label={t('form.exportTo')} hint={t('form.exportToHint')} placeholder="*" />
        <Others edit={edit} path={['spec']} known={['host', 'subsets', 'trafficPolicy', 'exportTo']} />
      </section>
    </div>
  );
}
