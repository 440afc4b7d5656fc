// Builds into a scratch directory and compares it with `dist`, byte by byte.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

const scratch = mkdtempSync(join(tmpdir(), 'malla-ui-'));
const files = (root) => readdirSync(root, { recursive: true }).map((f) => join(root, f)).filter((f) => statSync(f).isFile()).map((f) => relative(root, f)).sort();
try {
  execFileSync('npx', ['vite', 'build', '--logLevel', 'error', '--outDir', scratch, '--emptyOutDir'], { stdio: 'inherit' });
  const want = files(scratch);
  const have = files('dist');
  const wrong = [...new Set([...want, ...have])].filter(
    (f) => !want.includes(f) || !have.includes(f) || !readFileSync(join(scratch, f)).equals(readFileSync(join('dist', f))),
  );
  if (wrong.length > 0) {
    console.error(`ui/dist is not what the sources give: ${wrong.join(', ')}\nrun: npm run build`);
    process.exitCode = 1;
  } else {
    console.log(`ui/dist is up to date (${want.length} files)`);
  }
} finally {
  rmSync(scratch, { recursive: true });
}
