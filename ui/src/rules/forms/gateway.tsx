/** The guided form of a Gateway: which pods, which ports, which hosts, which certificate. */
import { useT } from '../../i18n';
import type { Knowledge } from '../editor';
import type { Path } from '../yamldoc';
import { AddButton, ChipsField, ChoiceField, Entry, Meta, NumberField, Others, PairsField, TextField } from './edit';
import type { Edit } from './edit';

const secure = ['HTTPS', 'TLS'];

function Server({ edit, at }: { edit: Edit; at: Path }) {
  const { t } = useT();
  const protocol = edit.text([...at, 'port', 'protocol']).toUpperCase();
  const mode = edit.text([...at, 'tls', 'mode']);
  return (
    <>
      <div className="formgrid three">
        <NumberField edit={edit} path={[...at, 'port', 'number']} label={t('form.port')} min={1} max={65535} />
        <ChoiceField edit={edit} path={[...at, 'port', 'protocol']} label={t('form.protocol')} options={['HTTP', 'HTTPS', 'GRPC', 'HTTP2', 'TCP', 'TLS', 'MONGO']} />
        <TextField edit={edit} path={[...at, 'port', 'name']} label={t('form.portName')} />
      </div>
      <ChipsField edit={edit} path={[...at, 'hosts']} label={t('form.hosts')} hint={t('form.gatewayHostsHint')} placeholder="*" />
      {(secure.includes(protocol) || edit.get([...at, 'tls']) !== undefined) && (
        <div className="formgrid">
          <ChoiceField edit={edit} path={[...at, 'tls', 'mode']} label={t('form.tlsMode')} options={['SIMPLE', 'MUTUAL', 'PASSTHROUGH', 'ISTIO_MUTUAL', 'AUTO_PASSTHROUGH', 'OPTIONAL_MUTUAL']} none={t('form.unset')} />
          {(mode === 'SIMPLE' || mode === 'MUTUAL' || mode === 'OPTIONAL_MUTUAL' || mode === '') && <TextField edit={edit} path={[...at, 'tls', 'credentialName']} label={t('form.credential')} hint={t('form.credentialHint')} />}
        </div>
      )}
      {protocol === 'HTTP' && (
        <label className="check">
          <input type="checkbox" checked={edit.get([...at, 'tls', 'httpsRedirect']) === true} onChange={(e) => edit.set([...at, 'tls', 'httpsRedirect'], e.target.checked ? true : undefined)} />
          {t('form.httpsRedirect')}
        </label>
      )}
      <Others edit={edit} path={at} known={['port', 'hosts', 'tls']} />
      <Others edit={edit} path={[...at, 'tls']} known={['mode', 'credentialName', 'httpsRedirect']} />
    </>
  );
}

export function GatewayForm({ edit, isNew }: { edit: Edit; knowledge: Knowledge; isNew: boolean }) {
  const { t } = useT();
  const servers: Path = ['spec', 'servers'];
  const summary = (at: Path) => `${edit.text([...at, 'port', 'protocol']) || '?'} :${edit.text([...at, 'port', 'number']) || '?'}`;
  return (
    <div className="form">
      <section className="panel formpart">
        <Meta edit={edit} isNew={isNew} />
        <PairsField edit={edit} path={['spec', 'selector']} label={t('form.gatewaySelector')} />
        <div className="row wrap">
          {(['ingressgateway', 'egressgateway'] as const).map((type) => (
            <button key={type} type="button" className="btn s" onClick={() => edit.set(['spec', 'selector'], { app: `istio-${type}`, istio: type })}>{t(`form.${type}`)}</button>
          ))}
        </div>
      </section>
      <section className="panel formpart">
        <h2>{t('form.servers')}</h2>
        {edit.list(servers).map((_, i) => (
          <Entry key={i} edit={edit} list={servers} index={i} title={<b>{summary([...servers, i])}</b>} removeLabel={t('form.removeServer')}>
            <Server edit={edit} at={[...servers, i]} />
          </Entry>
        ))}
        <AddButton label={t('form.addServer')} onClick={() => edit.add(servers, { port: { number: 443, name: 'https', protocol: 'HTTPS' }, hosts: ['*'], tls: { mode: 'SIMPLE' } })} />
      </section>
      <Others edit={edit} path={['spec']} known={['selector', 'servers']} />
    </div>
  );
}
