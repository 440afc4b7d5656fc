/// <reference types="vitest/config" />
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';
import { licenses } from './scripts/licenses.mjs';

const mock = process.env.MALLA_CONSOLE ?? 'http://127.0.0.1:20009';

export default defineConfig({
  plugins: [react(), licenses()],
  server: { proxy: { '/api': mock, '/jaeger': mock } },
  build: {
    target: 'es2022',
    sourcemap: false,
    // Data URLs would need a wider Content-Security-Policy.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 1700,
    reportCompressedSize: false,
  },
  test: { include: ['src/**/*.test.{ts,tsx}', 'tests/**/*.test.ts'], environment: 'node', testTimeout: 30_000 },
});
