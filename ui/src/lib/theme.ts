/** Dark or light: the system's choice until the reader makes one. `public/boot.js` sets the first. */
import { useSyncExternalStore } from 'react';

export type Choice = 'system' | 'light' | 'dark';
const key = 'malla.theme';
const listeners = new Set<() => void>();
const media = typeof matchMedia === 'undefined' ? undefined : matchMedia('(prefers-color-scheme: dark)');

function stored(): Choice {
  try {
    const value = localStorage.getItem(key);
    return value === 'light' || value === 'dark' ? value : 'system';
  } catch {
    return 'system';
  }
}

let choice: Choice = typeof localStorage === 'undefined' ? 'system' : stored();

function show() {
  document.documentElement.dataset.theme = choice === 'system' ? (media?.matches ? 'dark' : 'light') : choice;
  listeners.forEach((l) => l());
}
media?.addEventListener('change', show);

export function setTheme(next: Choice) {
  choice = next;
  try {
    if (next === 'system') localStorage.removeItem(key);
    else localStorage.setItem(key, next);
  } catch {
    // Closed storage: the choice lasts as long as the page.
  }
  show();
}

const subscribe = (listener: () => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};
export const useThemeChoice = () => useSyncExternalStore(subscribe, () => choice);
/** The theme on screen; canvases redraw when it changes. */
export const useTheme = () => useSyncExternalStore(subscribe, () => document.documentElement.dataset.theme ?? 'light');

/** A colour of the present theme, for canvases. */
export const token = (name: string) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
