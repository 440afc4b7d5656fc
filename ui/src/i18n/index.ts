/** English and Chinese. Keys are checked by the compiler; a test checks that both files have the same ones. */
import i18next from 'i18next';
import { initReactI18next, useTranslation } from 'react-i18next';
import type { LocalizedText } from '../api/types';
import type en from './en.json';

declare module 'i18next' {
  interface CustomTypeOptions {
    defaultNS: 'translation';
    resources: { translation: typeof en };
  }
}

export type Lang = 'en' | 'zh';
const key = 'malla.lang';

function chosen(): Lang {
  try {
    const value = localStorage.getItem(key);
    if (value === 'en' || value === 'zh') return value;
  } catch {
    // Closed storage: go by the browser.
  }
  return navigator.language.toLowerCase().startsWith('zh') ? 'zh' : 'en';
}

const load = async (lang: Lang) => (lang === 'zh' ? await import('./zh.json') : await import('./en.json')).default;

export async function startI18n() {
  const lang = chosen();
  await i18next.use(initReactI18next).init({
    lng: lang,
    fallbackLng: lang,
    resources: { [lang]: { translation: await load(lang) } },
    // React escapes; doing it twice would show entities.
    interpolation: { escapeValue: false },
    returnNull: false,
  });
  document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
}

export async function setLang(lang: Lang) {
  try {
    localStorage.setItem(key, lang);
  } catch {
    // The choice lasts as long as the page.
  }
  i18next.addResourceBundle(lang, 'translation', await load(lang));
  await i18next.changeLanguage(lang);
  document.documentElement.lang = lang === 'zh' ? 'zh-CN' : 'en';
}

/** `t`, and the language for number and date formats. */
export function useT() {
  const { t, i18n } = useTranslation();
  const lang: Lang = i18n.language === 'zh' ? 'zh' : 'en';
  const local = (text: LocalizedText | string) => (typeof text === 'string' ? text : text[lang] || text.en);
  return { t, lang, local };
}
export type T = ReturnType<typeof useT>['t'];
