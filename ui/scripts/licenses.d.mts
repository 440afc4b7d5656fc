import type { Plugin } from 'vite';
export function licenses(): Plugin;
export function packageOf(id: string): { name: string; root: string } | null;
