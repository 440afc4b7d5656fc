/**
 * The YAML editor: CodeMirror in a shadow root.
 *
 * In a shadow root CodeMirror uses constructed style sheets, which a strict Content-Security-Policy
 * allows; elsewhere it would add `<style>` elements, which it does not.
 */
import { autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from '@codemirror/autocomplete';
import type { Completion, CompletionContext, CompletionResult } from '@codemirror/autocomplete';
import { defaultKeymap, history, historyKeymap, indentLess, insertTab } from '@codemirror/commands';
import { yaml } from '@codemirror/lang-yaml';
import { HighlightStyle, bracketMatching, foldGutter, foldKeymap, indentOnInput, indentUnit, syntaxHighlighting } from '@codemirror/language';
import { lintGutter, lintKeymap, setDiagnostics } from '@codemirror/lint';
import type { Diagnostic } from '@codemirror/lint';
import { highlightSelectionMatches, searchKeymap } from '@codemirror/search';
import { Compartment, EditorState } from '@codemirror/state';
import { EditorView, drawSelection, highlightActiveLine, highlightActiveLineGutter, hoverTooltip, keymap, lineNumbers } from '@codemirror/view';
import { tags as tag } from '@lezer/highlight';
import { useEffect, useRef } from 'react';
import { useT } from '../i18n';
import { objectSchema, placeAt, schemaAt, siblings, suffix } from './complete';
import type { Schema } from './complete';

export interface Mark {
  line: number;
  message: string;
  severity: 'error' | 'warning' | 'info';
}
export interface Knowledge {
  /** By kind. */
  schemas: Record<string, Schema>;
  apiVersions: Record<string, string>;
  hosts: string[];
  gateways: string[];
}
interface Props {
  value: string;
  onChange?: (text: string) => void;
  marks?: Mark[];
  knowledge?: Knowledge;
  label: string;
  readOnly?: boolean;
  /** Scrolls to this line when `n` changes. */
  reveal?: { line: number; n: number } | undefined;
}

const look = EditorView.theme({
  '&': { height: '100%', fontSize: '13px', backgroundColor: 'var(--surface)', color: 'var(--ink)' },
  '&.cm-focused': { outline: 'none' },
  '.cm-scroller': { fontFamily: 'var(--mono)', lineHeight: '1.6', overflow: 'auto' },
  '.cm-content': { caretColor: 'var(--accent)', padding: '10px 0' },
  '.cm-cursor': { borderLeftColor: 'var(--accent)', borderLeftWidth: '2px' },
  '.cm-gutters': { backgroundColor: 'var(--surface)', color: 'var(--faint)', border: 'none', paddingLeft: '6px' },
  '.cm-activeLine': { backgroundColor: 'color-mix(in srgb, var(--accent) 6%, transparent)' },
  '.cm-activeLineGutter': { backgroundColor: 'transparent', color: 'var(--ink)' },
  '&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground': { backgroundColor: 'color-mix(in srgb, var(--accent) 24%, transparent)' },
  '.cm-selectionMatch': { backgroundColor: 'color-mix(in srgb, var(--warn-mark) 28%, transparent)' },
  '.cm-tooltip': { backgroundColor: 'var(--surface)', color: 'var(--ink)', border: '1px solid var(--line)', borderRadius: '8px', boxShadow: 'var(--shadow-up)', overflow: 'hidden', maxWidth: 'min(460px, 90vw)' },
  '.cm-tooltip-hover .doc, .cm-completionInfo': { padding: '8px 12px', fontFamily: 'var(--sans)', lineHeight: '1.45' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul': { fontFamily: 'var(--mono)', maxHeight: '15em', minWidth: '200px' },
  '.cm-tooltip.cm-tooltip-autocomplete > ul > li': { padding: '3px 8px' },
  '.cm-tooltip-autocomplete ul li[aria-selected]': { backgroundColor: 'var(--accent-soft)', color: 'var(--accent)' },
  '.cm-completionDetail': { color: 'var(--faint)', fontStyle: 'normal', marginLeft: '10px' },
  '.cm-completionMatchedText': { textDecoration: 'none', fontWeight: '700' },
  '.cm-diagnostic': { padding: '6px 10px', borderLeft: '3px solid var(--err-mark)', fontFamily: 'var(--sans)' },
  '.cm-diagnostic-warning': { borderLeftColor: 'var(--warn-mark)' },
  '.cm-diagnostic-info': { borderLeftColor: 'var(--accent)' },
  '.cm-lintRange-error': { backgroundImage: 'none', textDecoration: 'underline wavy var(--err-mark) 1px', textUnderlineOffset: '3px' },
  '.cm-lintRange-warning': { backgroundImage: 'none', textDecoration: 'underline wavy var(--warn-mark) 1px', textUnderlineOffset: '3px' },
  '.cm-lintRange-info': { backgroundImage: 'none', textDecoration: 'underline dotted var(--accent) 1px', textUnderlineOffset: '3px' },
  '.cm-lint-marker': { content: '""', width: '8px', height: '8px', borderRadius: '50%', marginTop: '7px', backgroundColor: 'var(--accent)' },
  '.cm-lint-marker-error': { content: '""', backgroundColor: 'var(--err-mark)' },
  '.cm-lint-marker-warning': { content: '""', backgroundColor: 'var(--warn-mark)' },
  '.cm-panels': { backgroundColor: 'var(--sunken)', color: 'var(--ink)', borderColor: 'var(--line)', fontFamily: 'var(--sans)' },
  '.cm-textfield, .cm-button': { backgroundColor: 'var(--surface)', backgroundImage: 'none', border: '1px solid var(--line-strong)', borderRadius: '6px', color: 'var(--ink)' },
  '.cm-foldPlaceholder': { backgroundColor: 'var(--sunken)', border: '1px solid var(--line)', color: 'var(--muted)' },
});
const colors = HighlightStyle.define([
  { tag: [tag.propertyName, tag.definition(tag.propertyName)], color: 'var(--c1)', fontWeight: '550' },
  { tag: [tag.string, tag.content], color: 'var(--ink)' },
  { tag: [tag.number, tag.bool, tag.keyword, tag.null], color: 'var(--c4)' },
  { tag: tag.comment, color: 'var(--faint)', fontStyle: 'italic' },
  { tag: [tag.punctuation, tag.separator, tag.meta], color: 'var(--muted)' },
]);

const lineText = (state: EditorState) => state.doc.toString().split('\n');

function rootOf(k: Knowledge | undefined, kind: string): Schema {
  const schema = k?.schemas[kind];
  return objectSchema(schema ?? {});
}

function complete(context: CompletionContext, k: Knowledge | undefined): CompletionResult | null {
  const line = context.state.doc.lineAt(context.pos);
  const before = line.text.slice(0, context.pos - line.from);
  const place = placeAt(lineText(context.state), line.number - 1, before);
  if (!context.explicit && place.typed === '' && place.key === null) return null;
  const from = context.pos - place.typed.length;
  const root = rootOf(k, place.kind);
  if (place.key !== null) return values(place.path, place.key, root, k, from);
  const schema = schemaAt(root, place.path);
  const indent = from - line.from;
  const there = siblings(lineText(context.state), line.number - 1, indent);
  const options: Completion[] = Object.entries(schema?.properties ?? {})
    .filter(([key]) => !there.has(key))
    .map(([key, s]) => ({ label: key, type: 'property', ...(s.type ? { detail: s.type } : {}), ...(s.description ? { info: s.description } : {}), apply: key + suffix(s, indent) }));
  if (options.length === 0 && schema?.type === 'string') return values(place.path.slice(0, -1), place.path.filter((x) => x !== '[]').at(-1) ?? '', root, k, from);
  return options.length > 0 ? { from, options, validFor: /^[\w-]*$/ } : null;
}

function values(path: string[], key: string, root: Schema, k: Knowledge | undefined, from: number): CompletionResult | null {
  const schema = schemaAt(root, [...path, key]) ?? schemaAt(root, [...path, '[]']);
  let list: string[] = [];
  if (schema?.enum) list = schema.enum.map(String);
  else if (schema?.type === 'boolean') list = ['true', 'false'];
  else if (path.length === 0 && key === 'kind') list = Object.keys(k?.schemas ?? {});
  else if (path.length === 0 && key === 'apiVersion') list = [...new Set(Object.values(k?.apiVersions ?? {}))];
  else if (key === 'host' || key === 'hosts') list = k?.hosts ?? [];
  else if (key === 'gateways') list = ['mesh', ...(k?.gateways ?? [])];
  return list.length > 0 ? { from, options: list.map((label) => ({ label, type: 'enum' })), validFor: /^[^\s,]*$/ } : null;
}

/** The description of the field under the pointer. */
function describe(k: () => Knowledge | undefined) {
  return hoverTooltip((view, pos) => {
    const line = view.state.doc.lineAt(pos);
    const match = /^(\s*(?:-\s+)*)([\w.-]+)\s*:/.exec(line.text);
    const start = line.from + (match?.[1]?.length ?? 0);
    const key = match?.[2];
    if (!key || pos < start || pos > start + key.length) return null;
    const place = placeAt(lineText(view.state), line.number - 1, match[0]);
    const schema = schemaAt(rootOf(k(), place.kind), [...place.path, key]);
    const description = schema?.description;
    if (!description) return null;
    return {
      pos: start,
      end: start + key.length,
      create: () => {
        const dom = document.createElement('div');
        dom.className = 'doc';
        dom.textContent = description;
        return { dom };
      },
    };
  });
}

/**
 * Typing over a selection is done here, not by the browser: Chromium would keep the style of the replaced text in a `style`
 * attribute, which the Content-Security-Policy refuses with a complaint.
 */
function typeOver(event: InputEvent, view: EditorView): boolean {
  const { from, to, empty } = view.state.selection.main;
  const text = event.data;
  if (event.inputType !== 'insertText' || event.isComposing || !text || empty || view.state.readOnly || view.state.selection.ranges.length > 1) return false;
  const insert = () => view.state.update({ changes: { from, to, insert: text }, selection: { anchor: from + text.length }, userEvent: 'input.type', scrollIntoView: true });
  if (!view.state.facet(EditorView.inputHandler).some((handle) => handle(view, from, to, text, insert))) view.dispatch(insert());
  event.preventDefault();
  return true;
}

export function Editor({ value, onChange, marks = [], knowledge, label, readOnly = false, reveal }: Props) {
  const { t } = useT();
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  // What the editor said and React has not yet given back. Only a value that is none of these comes from outside.
  const said = useRef<string[]>([]);
  const live = useRef({ onChange, knowledge, value });
  live.current = { onChange, knowledge, value };
  const editable = useRef(new Compartment());

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    const root = element.shadowRoot ?? element.attachShadow({ mode: 'open' });
    const made = new EditorView({
      root,
      parent: root,
      state: EditorState.create({
        doc: live.current.value,
        extensions: [
          lineNumbers(), foldGutter(), lintGutter(), highlightActiveLineGutter(), highlightActiveLine(), history(), drawSelection(), indentOnInput(), bracketMatching(), closeBrackets(),
          indentUnit.of('  '), yaml(), syntaxHighlighting(colors), highlightSelectionMatches(), look,
          autocompletion({ override: [(c) => complete(c, live.current.knowledge)], icons: false, activateOnTyping: true }),
          describe(() => live.current.knowledge),
          EditorView.lineWrapping,
          EditorView.contentAttributes.of({ 'aria-label': label, spellcheck: 'false', 'aria-multiline': 'true', tabindex: '0' }),
          // Tab indents; Escape and then Tab leaves the editor.
          keymap.of([{ key: 'Tab', run: insertTab, shift: indentLess }, ...closeBracketsKeymap, ...completionKeymap, ...searchKeymap, ...historyKeymap, ...foldKeymap, ...lintKeymap, ...defaultKeymap]),
          editable.current.of(EditorState.readOnly.of(readOnly)),
          EditorView.domEventHandlers({ beforeinput: typeOver }),
          EditorView.updateListener.of((update) => {
            if (!update.docChanged || !live.current.onChange) return;
            const text = update.state.doc.toString();
            said.current.push(text);
            live.current.onChange(text);
          }),
        ],
      }),
    });
    view.current = made;
    return () => {
      made.destroy();
      view.current = null;
    };
  }, [label, readOnly]);

  useEffect(() => {
    const v = view.current;
    const own = said.current.lastIndexOf(value);
    said.current = own >= 0 ? said.current.slice(own + 1) : [];
    if (own < 0 && v && v.state.doc.toString() !== value) {
      v.dispatch({ changes: { from: 0, to: v.state.doc.length, insert: value } });
      said.current = [];
    }
  }, [value]);

  useEffect(() => {
    const v = view.current;
    if (!v) return;
    const diagnostics: Diagnostic[] = marks.map((m) => {
      const line = v.state.doc.line(Math.min(Math.max(1, m.line), v.state.doc.lines));
      const from = line.from + (line.text.length - line.text.trimStart().length);
      return { from, to: Math.max(from, line.to), severity: m.severity, message: m.message };
    });
    v.dispatch(setDiagnostics(v.state, diagnostics));
  }, [marks, value]);

  useEffect(() => {
    const v = view.current;
    if (!v || !reveal) return;
    const line = v.state.doc.line(Math.min(Math.max(1, reveal.line), v.state.doc.lines));
    v.dispatch({ selection: { anchor: line.from }, effects: EditorView.scrollIntoView(line.from, { y: 'center' }) });
    v.focus();
  }, [reveal]);

  return (
    <div className="editor">
      <div className="editorhost" ref={host} />
      {!readOnly && <p className="editorhint small faint">{t('editor.hint')}</p>}
    </div>
  );
}
