/** The guided form of a VirtualService: for which hosts, which requests go where, and what happens on the way. */
import { useState } from 'react';
import { useT } from '../../i18n';
import type { T } from '../../i18n';
import { Icon } from '../../ui/icons';
import type { Knowledge } from '../editor';
import type { Path } from '../yamldoc';
import { AddButton, ChipsField, Entry, Meta, NumberField, Others, PairsField, RemoveButton, Section, TextField } from './edit';
import type { Edit } from './edit';

const how = ['exact', 'prefix', 'regex'] as const;
type How = (typeof how)[number];

/** How a string match says it, and what. */
function matcher(edit: Edit, path: Path): [How, string] {
  for (const h of how) if (edit.get([...path, h]) !== undefined) return [h, edit.text([...path, h])];
  return ['exact', ''];
}

/** One match in words: "path starts with /api, header cookie = vip=true". */
export function sentence(edit: Edit, at: Path, t: T): string {
  const parts: string[] = [];
  const say = (what: string, path: Path) => {
    const [h, v] = matcher(edit, path);
    parts.push(t(`sentence.${h}`, { what, value: v }));
  };
  if (edit.get([...at, 'uri']) !== undefined) say(t('form.path'), [...at, 'uri']);
  if (edit.get([...at, 'method']) !== undefined) say(t('form.method'), [...at, 'method']);
  for (const k of edit.keys([...at, 'headers'])) say(k, [...at, 'headers', k]);
  for (const k of edit.keys([...at, 'queryParams'])) say(`?${k}`, [...at, 'queryParams', k]);
  const rest = edit.keys(at).filter((k) => !['uri', 'method', 'headers', 'queryParams', 'name'].includes(k));
  return [...parts, ...rest].join(t('sentence.and')) || t('sentence.any');
}

function destinationText(edit: Edit, at: Path): string {
  const host = edit.text([...at, 'destination', 'host']).split('.')[0] ?? '';
  const subset = edit.text([...at, 'destination', 'subset']);
  const weight = edit.text([...at, 'weight']);
  return `${host}${subset ? ` ${subset}` : ''}${weight ? ` ${weight}%` : ''}`;
}

export function routeSummary(edit: Edit, at: Path, t: T): string {
  const matches = edit.list([...at, 'match']);
  const when = matches.length === 0 ? t('sentence.any') : matches.map((_, i) => sentence(edit, [...at, 'match', i], t)).join(t('sentence.or'));
  const to = edit.get([...at, 'redirect']) !== undefined ? t('form.redirect') : edit.list([...at, 'route']).map((_, i) => destinationText(edit, [...at, 'route', i])).join(' + ');
  return `${when} → ${to || '?'}`;
}

function StringMatch({ edit, path, label }: { edit: Edit; path: Path; label: string }) {
  const { t } = useT();
  const [written, v] = matcher(edit, path);
  // The way to compare may be chosen before there is a value to write.
  const [wished, setWished] = useState<How>('exact');
  const h = v === '' ? wished : written;
  return (
    <div className="field">
      <span className="lab">{label}</span>
      <div className="row">
        <select className="input w-how" value={h} aria-label={t('form.how', { what: label })} onChange={(e) => { setWished(e.target.value as How); if (v !== '') edit.set(path, { [e.target.value]: v }); }}>
          {how.map((x) => <option key={x} value={x}>{t(`form.${x}`)}</option>)}
        </select>
        <input className="input" value={v} aria-label={label} spellCheck={false} onChange={(e) => edit.set(path, e.target.value === '' ? undefined : { [h]: e.target.value })} />
      </div>
    </div>
  );
}

/** Headers or query parameters. */
function NamedMatches({ edit, path, label, add }: { edit: Edit; path: Path; label: string; add: string }) {
  const { t } = useT();
  const keys = edit.keys(path);
  return (
    <div className="col gap-s">
      {keys.map((k, i) => {
        const [h, v] = matcher(edit, [...path, k]);
        return (
          <div key={i} className="row namedmatch">
            <input className="input" value={k} aria-label={label} spellCheck={false} onChange={(e) => e.target.value !== '' && edit.rename(path, k, e.target.value)} />
            <select className="input w-how" value={h} aria-label={t('form.how', { what: k })} onChange={(e) => edit.set([...path, k], { [e.target.value]: v })}>
              {how.map((x) => <option key={x} value={x}>{t(`form.${x}`)}</option>)}
            </select>
            <input className="input" value={v} aria-label={t('form.valueOf', { key: k })} spellCheck={false} onChange={(e) => edit.set([...path, k], { [h]: e.target.value })} />
            <RemoveButton label={t('form.removeWord', { word: k })} onClick={() => edit.remove([...path, k])} />
          </div>
        );
      })}
      <AddButton
        label={add}
        onClick={() => {
          let name = label === t('form.header') ? 'cookie' : 'name';
          while (keys.includes(name)) name += '1';
          edit.set([...path, name], { exact: '' });
        }}
      />
    </div>
  );
}

function Match({ edit, at }: { edit: Edit; at: Path }) {
  const { t } = useT();
  return (
    <>
      <div className="formgrid">
        <StringMatch edit={edit} path={[...at, 'uri']} label={t('form.path')} />
        <StringMatch edit={edit} path={[...at, 'method']} label={t('form.method')} />
      </div>
      <NamedMatches edit={edit} path={[...at, 'headers']} label={t('form.header')} add={t('form.addHeader')} />
      <NamedMatches edit={edit} path={[...at, 'queryParams']} label={t('form.query')} add={t('form.addQuery')} />
      <Others edit={edit} path={at} known={['uri', 'method', 'headers', 'queryParams']} />
    </>
  );
}

/** Destinations with their weights; moving one slider keeps the sum at 100. */
export function Destinations({ edit, path, knowledge }: { edit: Edit; path: Path; knowledge: Knowledge }) {
  const { t } = useT();
  const list = edit.list(path);
  const weight = (i: number) => {
    const w = edit.get([...path, i, 'weight']);
    return typeof w === 'number' ? w : list.length === 1 ? 100 : 0;
  };
  const sum = list.reduce<number>((s, _, i) => s + weight(i), 0);
  const set = (i: number, value: number) => {
    const others = list.map((_, j) => j).filter((j) => j !== i);
    const before = others.reduce((s, j) => s + weight(j), 0);
    let left = 100 - value;
    const next = list.map((_, j): number => {
      if (j === i) return value;
      const last = j === others[others.length - 1];
      const part = last ? left : Math.min(left, Math.round(before > 0 ? (weight(j) / before) * (100 - value) : (100 - value) / others.length));
      left -= part;
      return part;
    });
    // Weights alone change, one scalar each, so that comments stay.
    edit.setMany(next.flatMap((w, j) => (w !== edit.get([...path, j, 'weight']) ? [{ path: [...path, j, 'weight'], value: w }] : [])));
  };
  return (
    <div className="col gap-m">
      {list.map((_, i) => {
        const at = [...path, i];
        return (
          <div key={i} className="destination">
            <div className="formgrid dest">
              <TextField edit={edit} path={[...at, 'destination', 'host']} label={t('form.host')} options={knowledge.hosts} />
              <TextField edit={edit} path={[...at, 'destination', 'subset']} label={t('form.subset')} />
              <NumberField edit={edit} path={[...at, 'destination', 'port', 'number']} label={t('form.port')} min={1} max={65535} />
              <RemoveButton label={t('form.removeDestination')} onClick={() => edit.remove(at)} />
            </div>
            {list.length > 1 && (
              <label className="row weight">
                <span className="small muted">{t('form.weight')}</span>
                <input type="range" min={0} max={100} value={weight(i)} onChange={(e) => set(i, Number(e.target.value))} aria-label={t('form.weightOf', { what: destinationText(edit, at) })} />
                <input className="input w-xs" type="number" min={0} max={100} value={weight(i)} onChange={(e) => set(i, Math.min(100, Math.max(0, Math.round(Number(e.target.value) || 0))))} aria-label={t('form.weightOf', { what: destinationText(edit, at) })} />
                <span className="muted">{'%'}</span>
              </label>
            )}
            <Others edit={edit} path={at} known={['destination', 'weight']} />
          </div>
        );
      })}
      {list.length > 1 && sum !== 100 && <p className="small t-warn row"><Icon name="alert" size={14} />{t('form.weightSum', { sum })}</p>}
      <AddButton label={t('form.addDestination')} onClick={() => edit.add(path, { destination: { host: edit.text([...path, 0, 'destination', 'host']) || knowledge.hosts[0] || '' }, ...(list.length > 0 ? { weight: list.length === 1 && edit.get([...path, 0, 'weight']) === undefined ? 0 : Math.max(0, 100 - sum) } : {}) })} />
    </div>
  );
}

const httpKnown = ['name', 'match', 'route', 'timeout', 'retries', 'fault', 'rewrite', 'redirect', 'mirror', 'mirrorPercentage', 'headers'];

function Advanced({ edit, at, knowledge }: { edit: Edit; at: Path; knowledge: Knowledge }) {
  const { t } = useT();
  const used = ['timeout', 'retries', 'fault', 'rewrite', 'redirect', 'mirror', 'headers'].filter((k) => edit.get([...at, k]) !== undefined).length;
  const p = (...steps: Path) => [...at, ...steps];
  return (
    <Section title={t('form.advanced')} open={used > 0} count={used}>
      <h3>{t('form.timeouts')}</h3>
      <div className="formgrid three">
        <TextField edit={edit} path={p('timeout')} label={t('form.timeout')} placeholder="3s" />
        <NumberField edit={edit} path={p('retries', 'attempts')} label={t('form.attempts')} />
        <TextField edit={edit} path={p('retries', 'perTryTimeout')} label={t('form.perTry')} placeholder="1s" />
      </div>
      <TextField edit={edit} path={p('retries', 'retryOn')} label={t('form.retryOn')} placeholder="connect-failure,refused-stream,503" />
      <h3>{t('form.fault')}</h3>
      <div className="formgrid">
        <TextField edit={edit} path={p('fault', 'delay', 'fixedDelay')} label={t('form.delay')} placeholder="7s" />
        <NumberField edit={edit} path={p('fault', 'delay', 'percentage', 'value')} label={t('form.delayShare')} max={100} />
        <NumberField edit={edit} path={p('fault', 'abort', 'httpStatus')} label={t('form.abort')} min={200} max={599} />
        <NumberField edit={edit} path={p('fault', 'abort', 'percentage', 'value')} label={t('form.abortShare')} max={100} />
      </div>
      <h3>{t('form.rewriting')}</h3>
      <div className="formgrid">
        <TextField edit={edit} path={p('rewrite', 'uri')} label={t('form.rewriteUri')} />
        <TextField edit={edit} path={p('rewrite', 'authority')} label={t('form.rewriteAuthority')} />
        <TextField edit={edit} path={p('redirect', 'uri')} label={t('form.redirectUri')} />
        <NumberField edit={edit} path={p('redirect', 'redirectCode')} label={t('form.redirectCode')} min={300} max={399} />
      </div>
      <h3>{t('form.mirror')}</h3>
      <div className="formgrid three">
        <TextField edit={edit} path={p('mirror', 'host')} label={t('form.host')} options={knowledge.hosts} />
        <TextField edit={edit} path={p('mirror', 'subset')} label={t('form.subset')} />
        <NumberField edit={edit} path={p('mirrorPercentage', 'value')} label={t('form.mirrorShare')} max={100} />
      </div>
      <h3>{t('form.headers')}</h3>
      <div className="formgrid">
        <PairsField edit={edit} path={p('headers', 'request', 'set')} label={t('form.requestSet')} />
        <PairsField edit={edit} path={p('headers', 'response', 'set')} label={t('form.responseSet')} />
      </div>
    </Section>
  );
}

function HttpRoute({ edit, at, knowledge }: { edit: Edit; at: Path; knowledge: Knowledge }) {
  const { t } = useT();
  const matches: Path = [...at, 'match'];
  return (
    <>
      <h3>{t('form.when')}</h3>
      {edit.list(matches).length === 0 && <p className="small muted">{t('form.everyRequest')}</p>}
      {edit.list(matches).map((_, i) => (
        <div key={i} className="match">
          <div className="row between"><span className="small muted">{i > 0 ? t('form.or') : t('form.if')}</span><RemoveButton label={t('form.removeMatch')} onClick={() => edit.remove([...matches, i])} /></div>
          <Match edit={edit} at={[...matches, i]} />
        </div>
      ))}
      <AddButton label={t('form.addMatch')} onClick={() => edit.add(matches, { uri: { prefix: '/' } })} />
      <h3>{t('form.then')}</h3>
      <Destinations edit={edit} path={[...at, 'route']} knowledge={knowledge} />
      <Advanced edit={edit} at={at} knowledge={knowledge} />
      <Others edit={edit} path={at} known={httpKnown} />
    </>
  );
}

function TcpRoute({ edit, at, knowledge, tls }: { edit: Edit; at: Path; knowledge: Knowledge; tls: boolean }) {
  const { t } = useT();
  const matches: Path = [...at, 'match'];
  return (
    <>
      {edit.list(matches).map((_, i) => (
        <div key={i} className="formgrid dest2">
          {tls && <ChipsField edit={edit} path={[...matches, i, 'sniHosts']} label={t('form.sniHosts')} />}
          <NumberField edit={edit} path={[...matches, i, 'port']} label={t('form.port')} min={1} max={65535} />
          <RemoveButton label={t('form.removeMatch')} onClick={() => edit.remove([...matches, i])} />
        </div>
      ))}
      <AddButton label={t('form.addMatch')} onClick={() => edit.add(matches, tls ? { port: 443, sniHosts: edit.list(['spec', 'hosts']) } : { port: 80 })} />
      <Destinations edit={edit} path={[...at, 'route']} knowledge={knowledge} />
      <Others edit={edit} path={at} known={['match', 'route']} />
    </>
  );
}

export function VirtualServiceForm({ edit, knowledge, isNew }: { edit: Edit; knowledge: Knowledge; isNew: boolean }) {
  const { t } = useT();
  const host = edit.text(['spec', 'hosts', 0]) || (knowledge.hosts[0] ?? '');
  const fallback = host.includes('*') ? (knowledge.hosts[0] ?? '') : host;
  return (
    <div className="form">
      <section className="panel formpart">
        <Meta edit={edit} isNew={isNew} />
        <ChipsField edit={edit} path={['spec', 'hosts']} label={t('form.hosts')} hint={t('form.vsHostsHint')} options={knowledge.hosts} />
        <ChipsField edit={edit} path={['spec', 'gateways']} label={t('form.gateways')} hint={t('form.gatewaysHint')} options={['mesh', ...knowledge.gateways]} placeholder="mesh" />
      </section>
      {(['http', 'tcp', 'tls'] as const).map((type) => {
        const list: Path = ['spec', type];
        const entries = edit.list(list);
        if (type !== 'http' && entries.length === 0) return null;
        return (
          <section key={type} className="panel formpart">
            <h2>{t(`form.routes_${type}`)}</h2>
            <p className="small muted">{t('form.firstWins')}</p>
            {entries.map((_, i) => (
              <Entry key={i} edit={edit} list={list} index={i} removeLabel={t('form.removeRoute')} title={<>{edit.text([...list, i, 'name']) && <span className="chip">{edit.text([...list, i, 'name'])}</span>} <b>{routeSummary(edit, [...list, i], t)}</b></>}>
                {type === 'http' ? <HttpRoute edit={edit} at={[...list, i]} knowledge={knowledge} /> : <TcpRoute edit={edit} at={[...list, i]} knowledge={knowledge} tls={type === 'tls'} />}
              </Entry>
            ))}
            <AddButton label={t('form.addRoute')} onClick={() => edit.add(list, { route: [{ destination: { host: fallback } }] })} />
          </section>
        );
      })}
      <div className="row wrap">
        {(['tcp', 'tls'] as const).filter((type) => edit.list(['spec', type]).length === 0).map((type) => (
          <AddButton key={type} label={t(`form.add_${type}`)} onClick={() => edit.add(['spec', type], type === 'tls' ? { match: [{ port: 443, sniHosts: [host] }], route: [{ destination: { host: fallback } }] } : { route: [{ destination: { host: fallback } }] })} />
        ))}
      </div>
      <Section title={t('form.visibility')} open={edit.list(['spec', 'exportTo']).length > 0}>
        <ChipsField edit={edit} path={['spec', 'exportTo']} label={t('form.exportTo')} hint={t('form.exportToHint')} placeholder="*" />
      </Section>
      <Others edit={edit} path={['spec']} known={['hosts', 'gateways', 'http', 'tcp', 'tls', 'exportTo']} />
    </div>
  );
}
