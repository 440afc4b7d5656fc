import type { Server } from 'node:http';
export const csp: string;
export function makeServer(options?: { scene?: string; dist?: string }): Server;
