// Writes the licences of everything that ends up in the bundle to `licenses.txt`, in a stable order.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** The package a module path belongs to, or null. */
export function packageOf(id) {
  const clean = id.replace(/^\0/, '').split('?')[0].replaceAll('\\', '/');
  const at = clean.lastIndexOf('/node_modules/');
  if (at < 0) return null;
  const [scopeOrName, name] = clean.slice(at + '/node_modules/'.length).split('/');
  return { name: scopeOrName.startsWith('@') ? `${scopeOrName}/${name}` : scopeOrName, root: clean.slice(0, at) };
}

export function licenses() {
  const dirs = new Map();
  return {
    name: 'malla-licenses',
    apply: 'build',
    generateBundle() {
      for (const id of this.getModuleIds()) {
        const found = packageOf(id);
        if (found) dirs.set(found.name, join(found.root, 'node_modules', found.name));
      }
      const parts = [...dirs.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([name, dir]) => {
        const manifest = join(dir, 'package.json');
        if (!existsSync(manifest)) return [];
        const pkg = JSON.parse(readFileSync(manifest, 'utf8'));
        const file = readdirSync(dir).sort().find((f) => /^(licen[cs]e|copying)(\.|$)/i.test(f));
        const text = file ? readFileSync(join(dir, file), 'utf8').trim() : '';
        const source = typeof pkg.repository === 'string' ? pkg.repository : (pkg.repository?.url ?? '');
        return [`${name} ${pkg.version} (${pkg.license ?? 'see below'})\n${source}\n\n${text}`];
      });
      const rule = `\n\n${'-'.repeat(80)}\n\n`;
      this.emitFile({ type: 'asset', fileName: 'licenses.txt', source: `Third-party software in this bundle, unmodified.${rule}${parts.join(rule)}\n` });
    },
  };
}
