/** The state of a view lives in the query string, so that every view is a link. */
import { useCallback } from 'react';
import { useLocation, useSearch } from 'wouter';

/** Sets or removes parameters of the present address. Reads it freshly, so two calls in a row both count. */
export function useSetParams(): (changes: Record<string, string | null | undefined>, push?: boolean) => void {
  const [, navigate] = useLocation();
  return useCallback(
    (changes, push = false) => {
      const params = new URLSearchParams(window.location.search);
      for (const [key, value] of Object.entries(changes)) {
        if (value === null || value === undefined || value === '') params.delete(key);
        else params.set(key, value);
      }
      const text = params.toString();
      navigate(window.location.pathname + (text ? `?${text}` : ''), { replace: !push });
    },
    [navigate],
  );
}

/** One parameter with its default; the default is not written into the address. */
export function useParam(name: string, fallback = ''): [string, (value: string, push?: boolean) => void] {
  const search = useSearch();
  const setParams = useSetParams();
  const value = new URLSearchParams(search).get(name) ?? fallback;
  const set = useCallback(
    (next: string, push?: boolean) => setParams({ [name]: next === fallback ? null : next }, push),
    [setParams, name, fallback],
  );
  return [value, set];
}

/** A path from parts that may hold anything. */
export const path = (...parts: string[]) => `/${parts.map(encodeURIComponent).join('/')}`;

/** A path with a query; empty values are left out. */
export function href(base: string, query: Record<string, string | number | undefined>): string {
  const params = new URLSearchParams();
  for (const [k, v] of Object.entries(query)) if (v !== undefined && v !== '') params.set(k, String(v));
  const text = params.toString();
  return text ? `${base}?${text}` : base;
}
