/** How configuration objects, their changes and the analyzer's findings look everywhere. */
import { Link } from 'wouter';
import type { Active, Change, Finding, ObjectRef } from '../api/types';
import { useT } from '../i18n';
import { dateTime, ms, relative } from '../lib/format';
import { useNow } from '../lib/hooks';
import { path } from '../lib/url';
import { Icon } from './icons';
import { Level } from './parts';

export const objectPath = (o: { kind: string; namespace: string; name: string }) => path('rules', o.kind, o.namespace, o.name);

export function ObjectLink({ of, withKind }: { of: ObjectRef; withKind?: boolean }) {
  return (
    <Link href={objectPath(of)} className="break">
      {withKind && <span className="faint">{of.kind}{' '}</span>}
      {of.namespace}{'/'}{of.name}
    </Link>
  );
}

/** "Active on 11/12 proxies". */
export function ActiveOn({ active, long }: { active: Active | null; long?: boolean }) {
  const { t, lang } = useT();
  if (!active) return <span className="faint">{t('active.unknown')}</span>;
  const all = active.acked >= active.total;
  const text = long ? t('active.long', { acked: active.acked, total: active.total }) : `${active.acked}/${active.total}`;
  return (
    <span className={`chip ${all ? 'ok' : 'warn'}`} title={t('active.long', { acked: active.acked, total: active.total })}>
      <Icon name={all ? 'check' : 'clock'} size={12} />
      {text}
      {long && all && active.ms !== null && ` · ${ms(active.ms, lang)}`}
    </span>
  );
}

/** `Kind namespace/name` as the analyzer writes it, as a link. */
export function objectOfFinding(text: string): ObjectRef | null {
  const match = /^(\w+) ([^/\s]+)\/(\S+)/.exec(text);
  return match ? { kind: match[1] as string, namespace: match[2] as string, name: match[3] as string } : null;
}

export function Findings({ list, withObject }: { list: Finding[]; withObject?: boolean }) {
  return (
    <ul className="findings">
      {list.map((f, i) => {
        const object = withObject && f.object ? objectOfFinding(f.object) : null;
        return (
          <li key={i}>
            <div className="row wrap">
              <Level level={f.level} />
              <code className="faint">{f.code}</code>
              {object ? <ObjectLink of={object} withKind /> : withObject && <span className="break">{f.object}</span>}
            </div>
            <p className="break">{f.message}</p>
            {f.path && <code className="small muted break">{f.path}</code>}
          </li>
        );
      })}
    </ul>
  );
}

export function When({ time }: { time: string }) {
  const { lang } = useT();
  const now = useNow();
  const at = new Date(time);
  return <time dateTime={time} title={dateTime(at, lang)} className="nowrap">{relative(at, now, lang)}</time>;
}

export function ChangeRow({ change, onOpen }: { change: Change; onOpen?: (c: Change) => void }) {
  const { t } = useT();
  const tone = { create: 'ok', update: 'acc', delete: 'err' }[change.action];
  return (
    <li className="change">
      <span className={`chip ${tone}`}>{t(`change.${change.action}`)}</span>
      <div className="grow">
        {onOpen ? (
          <button type="button" className="link break" onClick={() => onOpen(change)}>
            {change.kind}{' '}{change.namespace}{'/'}{change.name}
          </button>
        ) : (
          <ObjectLink of={change} withKind />
        )}
        <div className="small muted break">
          {t('change.by', { who: change.who })}{' · '}<When time={change.time} />
          {change.note && <>{' · '}{change.note}</>}
        </div>
      </div>
    </li>
  );
}
