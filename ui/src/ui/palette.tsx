/** ⌘K: go to any page, service or rule by name. */
import { useQuery } from '@tanstack/react-query';
import { useEffect, useMemo, useRef, useState } from 'react';
import { useLocation } from 'wouter';
import { q } from '../api/queries';
import { useT } from '../i18n';
import { path } from '../lib/url';
import { Icon } from './icons';
import type { IconName } from './icons';
import { pagePath, pages } from './shell';

interface Target {
  to: string;
  label: string;
  hint: string;
  icon: IconName;
}

export function Palette({ close }: { close: () => void }) {
  const { t } = useT();
  const [, navigate] = useLocation();
  const [text, setText] = useState('');
  const [at, setAt] = useState(0);
  const ref = useRef<HTMLDialogElement>(null);
  const services = useQuery(q.services(false)).data;
  const objects = useQuery(q.objects()).data;

  useEffect(() => {
    const dialog = ref.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);

  const targets = useMemo<Target[]>(
    () => [
      ...pages.map((id) => ({ to: pagePath(id), label: t(`nav.${id}`), hint: t('palette.page'), icon: id as IconName })),
      ...(services ?? []).map((s) => ({ to: path('services', s.namespace, s.name), label: s.name, hint: s.namespace, icon: 'services' as const })),
      ...(objects ?? []).map((o) => ({ to: path('rules', o.kind, o.namespace, o.name), label: o.name, hint: `${o.kind} · ${o.namespace}`, icon: 'rules' as const })),
    ],
    [t, services, objects],
  );
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const found = targets.filter((x) => words.every((w) => `${x.label} ${x.hint}`.toLowerCase().includes(w))).slice(0, 50);
  const chosen = Math.min(at, found.length - 1);
  const go = (target: Target | undefined) => {
    if (!target) return;
    close();
    navigate(target.to);
  };
  return (
    // eslint-disable-next-line jsx-a11y/click-events-have-key-events, jsx-a11y/no-noninteractive-element-interactions -- a click on the backdrop closes; Escape does too
    <dialog ref={ref} className="palette" aria-label={t('palette.label')} onCancel={(e) => { e.preventDefault(); close(); }} onClick={(e) => e.target === ref.current && close()}>
      <input
        className="input"
        role="combobox"
        aria-expanded="true"
        aria-controls="palette-list"
        aria-activedescendant={chosen >= 0 ? `palette-${chosen}` : undefined}
        aria-label={t('palette.label')}
        placeholder={t('palette.placeholder')}
        value={text}
        onChange={(e) => {
          setText(e.target.value);
          setAt(0);
        }}
        onKeyDown={(e) => {
          if (e.key === 'ArrowDown') setAt(Math.min(found.length - 1, chosen + 1));
          else if (e.key === 'ArrowUp') setAt(Math.max(0, chosen - 1));
          else if (e.key === 'Enter') go(found[chosen]);
          else return;
          e.preventDefault();
        }}
      />
      <ul role="listbox" id="palette-list" aria-label={t('palette.label')}>
        {found.map((x, i) => (
          // eslint-disable-next-line jsx-a11y/click-events-have-key-events -- the field above has the keys
          <li key={x.to} id={`palette-${i}`} role="option" aria-selected={i === chosen} ref={i === chosen ? (el) => { el?.scrollIntoView({ block: 'nearest' }); } : undefined} onClick={() => go(x)}>
            <Icon name={x.icon} size={16} />
            <span className="ellipsis">{x.label}</span>
            <span className="faint small ellipsis">{x.hint}</span>
          </li>
        ))}
        {found.length === 0 && <li className="muted small" role="option" aria-selected="false" aria-disabled="true">{t('palette.none')}</li>}
      </ul>
    </dialog>
  );
}
