/** The frame of every page: navigation, search, language, theme. */
import { useQuery } from '@tanstack/react-query';
import { useEffect, useRef, useState } from 'react';
import type { ReactNode } from 'react';
import { Link, useLocation } from 'wouter';
import { currentSession } from '../api/client';
import { setLang, useT } from '../i18n';
import { setTheme, useThemeChoice } from '../lib/theme';
import type { Choice } from '../lib/theme';
import { Menu } from './dialog';
import { useEvents } from './events';
import { Icon, Logo } from './icons';
import type { IconName } from './icons';
import { Palette } from './palette';
import { Toasts } from './toast';

export type PageId = 'overview' | 'topology' | 'services' | 'rules' | 'gateways' | 'security' | 'traces' | 'logs' | 'proxies' | 'learn';
export const pagePath = (id: PageId) => (id === 'overview' ? '/' : `/${id}`);
const groups: { label?: 'configure' | 'observe'; pages: PageId[] }[] = [
  { pages: ['overview', 'topology', 'services'] },
  { label: 'configure', pages: ['rules', 'gateways', 'security'] },
  { label: 'observe', pages: ['traces', 'logs', 'proxies'] },
  { pages: ['learn'] },
];
export const pages = groups.flatMap((g) => g.pages);

const apple = /Mac|iPhone|iPad/.test(navigator.userAgent);

/** The page an address belongs to. */
const pageOf = (at: string): PageId => (at === '/' ? 'overview' : ((pages as string[]).includes(at.split('/')[1] ?? '') ? (at.split('/')[1] as PageId) : 'overview'));

function Side({ open, at, close }: { open: boolean; at: string; close: () => void }) {
  const { t } = useT();
  const { data: session } = useQuery({ queryKey: ['session'], queryFn: () => currentSession(), staleTime: Infinity });
  const here = pageOf(at);
  return (
    <div className={`side${open ? ' open' : ''}`} id="side">
      <Link href="/" className="brand" onClick={close}>
        <Logo />
        {t('brand')}
      </Link>
      <nav aria-label={t('nav.label')}>
        {groups.map((group, i) => (
          <div key={group.label ?? i} className="col gap-s">
            {group.label ? <div className="group">{t(`nav.${group.label}`)}</div> : i > 0 && <div className="group" />}
            {group.pages.map((id) => (
              <Link key={id} href={pagePath(id)} className="item" aria-current={here === id ? 'page' : undefined} onClick={close}>
                <Icon name={id as IconName} />
                {t(`nav.${id}`)}
              </Link>
            ))}
          </div>
        ))}
      </nav>
      <div className="foot">
        {session && (
          <>
            <span className="break">{t('shell.cluster', { name: session.cluster })}</span>
            <span className="break">{t('shell.user', { name: session.user })}</span>
            <span>{t('shell.version', { version: session.version })}</span>
          </>
        )}
      </div>
    </div>
  );
}

function ThemeMenu() {
  const { t } = useT();
  const choice = useThemeChoice();
  const icons: Record<Choice, IconName> = { system: 'system', light: 'sun', dark: 'moon' };
  return (
    <Menu
      label={t('shell.theme')}
      className="btn ghost icon"
      button={<Icon name={icons[choice]} />}
      items={(['system', 'light', 'dark'] as const).map((id) => ({
        id,
        checked: choice === id,
        label: <><Icon name={icons[id]} size={16} />{t(`theme.${id}`)}</>,
        run: () => setTheme(id),
      }))}
    />
  );
}

/** `/` and ⌘K, unless the reader is typing. */
function useKeys(openPalette: () => void) {
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => {
      const target = event.composedPath()[0] as HTMLElement;
      const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) || target.isContentEditable;
      if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === 'k') {
        event.preventDefault();
        openPalette();
      } else if (event.key === '/' && !typing && !event.metaKey && !event.ctrlKey && !event.altKey) {
        const box = document.querySelector<HTMLInputElement>('main [data-search]');
        event.preventDefault();
        if (box) box.focus();
        else openPalette();
      }
    };
    document.addEventListener('keydown', onKey);
    return () => document.removeEventListener('keydown', onKey);
  }, [openPalette]);
}

export function Shell({ children }: { children: ReactNode }) {
  const { t, lang } = useT();
  const [at] = useLocation();
  const [menu, setMenu] = useState(false);
  const [palette, setPalette] = useState(false);
  const [raised, setRaised] = useState(false);
  const stream = useEvents();
  const main = useRef<HTMLElement>(null);
  const openPalette = useRef(() => setPalette(true));
  useKeys(openPalette.current);
  const here = pageOf(at);

  useEffect(() => {
    const onScroll = () => setRaised(window.scrollY > 8);
    window.addEventListener('scroll', onScroll, { passive: true });
    return () => window.removeEventListener('scroll', onScroll);
  }, []);
  useEffect(() => {
    document.title = `${t(`nav.${here}`)} · ${t('brand')}`;
  }, [t, here, lang]);
  useEffect(() => {
    window.scrollTo(0, 0);
  }, [at]);

  const rest = at.split('/').slice(2).filter(Boolean).map((s) => {
    try {
      return decodeURIComponent(s);
    } catch {
      return s;
    }
  });
  return (
    <>
      <a className="skip" href="#main" onClick={(e) => { e.preventDefault(); main.current?.focus(); }}>{t('shell.skip')}</a>
      <div className="shell">
        <button type="button" className={`scrim${menu ? ' open' : ''}`} aria-label={t('action.close')} onClick={() => setMenu(false)} tabIndex={-1} />
        <Side open={menu} at={at} close={() => setMenu(false)} />
        <div className="main">
          <header className={`topbar${raised ? ' raised' : ''}`}>
            <button type="button" className="btn ghost icon burger" aria-label={t('shell.menu')} aria-expanded={menu} aria-controls="side" onClick={() => setMenu(!menu)}>
              <Icon name="menu" />
            </button>
            <div className="crumbs">
              {rest.length > 0 ? (
                <>
                  <Link href={pagePath(here)}>{t(`nav.${here}`)}</Link>
                  <Icon name="right" size={12} />
                  <span className="here ellipsis">{(here === 'learn' ? rest.map((r) => r.toUpperCase()) : rest).join(' / ')}</span>
                </>
              ) : null}
            </div>
            {stream === 'lost' && <span className="chip warn"><span className="livedot lost" />{t('live.lost')}</span>}
            <button type="button" className="btn ghost" onClick={() => setPalette(true)} title={t('palette.label')}>
              <Icon name="search" size={16} />
              <span className="sr">{t('palette.label')}</span>
              <kbd>{t(apple ? 'palette.keyApple' : 'palette.key')}</kbd>
            </button>
            <button type="button" className="btn ghost" onClick={() => void setLang(lang === 'en' ? 'zh' : 'en')} lang={lang === 'en' ? 'zh-CN' : 'en'} aria-label={t('shell.otherLanguage')}>
              {t('shell.otherLanguageShort')}
            </button>
            <ThemeMenu />
          </header>
          <main id="main" ref={main} tabIndex={-1} className={`page${here === 'topology' ? ' full' : ''}`}>{children}</main>
        </div>
      </div>
      {palette && <Palette close={() => setPalette(false)} />}
      <Toasts />
    </>
  );
}
