/** The lessons: what to do, three ways to do it, and a light that says whether the mesh really does it. */
import { useMutation, useQuery, useQueryClient } from '@tanstack/react-query';
import { Suspense, lazy, useState } from 'react';
import { Link } from 'wouter';
import { post } from '../api/client';
import { q } from '../api/queries';
import type { Lesson } from '../api/types';
import { useT } from '../i18n';
import { path, useParam } from '../lib/url';
import { Icon } from '../ui/icons';
import { CopyButton, Empty, Head, Loaded, Panel, Refused, Skeleton, Tabs } from '../ui/parts';
import { toast } from '../ui/toast';

const Editor = lazy(() => import('../rules/editor').then((m) => ({ default: m.Editor })));

/** Text with `code` and paragraphs, and nothing else: no markup is understood. */
function Prose({ text }: { text: string }) {
  return (
    <>
      {text.split(/\n{2,}/).map((paragraph, i) => (
        <p key={i}>{paragraph.split(/(`[^`]+`)/).map((part, j) => (part.startsWith('`') && part.endsWith('`') && part.length > 2 ? <code key={j}>{part.slice(1, -1)}</code> : part))}</p>
      ))}
    </>
  );
}

function Light({ lesson, big }: { lesson: Lesson; big?: boolean }) {
  const { t } = useT();
  return <span className={`signal ${lesson.light}${big ? ' big' : ''}`} role="img" aria-label={t(`learn.light_${lesson.light}`)} title={t(`learn.light_${lesson.light}`)} />;
}

function LessonView({ lesson, next }: { lesson: Lesson; next: Lesson | undefined }) {
  const { t, local } = useT();
  const client = useQueryClient();
  const [tab, setTab] = useParam('tab', 'console');
  const act = useMutation({
    mutationFn: (what: 'apply' | 'revert') =>
      what === 'apply' ? post('/api/malla/v1/lessons/{id}:apply', { path: { id: lesson.id } }) : post('/api/malla/v1/lessons/{id}:revert', { path: { id: lesson.id } }),
    onSuccess: (_, what) => {
      toast('ok', what === 'apply' ? t('learn.applied') : t('learn.reverted'));
      void client.invalidateQueries();
    },
  });
  return (
    <article className="lesson col gap-l">
      <section className={`panel verdict ${lesson.light}`} role="status" aria-live="polite">
        <Light lesson={lesson} big />
        <div className="grow">
          <strong>{t(`learn.light_${lesson.light}`)}</strong>
          <p className="muted break">{local(lesson.why)}</p>
        </div>
        <div className="row wrap">
          {lesson.yaml && <button type="button" className="btn primary" disabled={act.isPending} onClick={() => act.mutate('apply')}><Icon name="bolt" size={16} />{t('learn.doIt')}</button>}
          {lesson.yaml && <button type="button" className="btn" disabled={act.isPending} onClick={() => act.mutate('revert')}><Icon name="undo" size={16} />{t('learn.revert')}</button>}
        </div>
      </section>
      {act.error && <Refused error={act.error} />}
      <div className="prose"><Prose text={local(lesson.text)} /></div>
      <Tabs label={local(lesson.title)} value={tab === 'kubectl' || tab === 'yaml' ? tab : 'console'} onChange={setTab} tabs={[{ id: 'console', label: t('learn.byHand') }, { id: 'kubectl', label: t('learn.kubectl') }, ...(lesson.yaml ? [{ id: 'yaml' as const, label: t('learn.yaml') }] : [])]} />
      {tab === 'kubectl' ? (
        <div className="col">{lesson.kubectl.map((line, i) => <div key={i} className="codeline"><pre className="code">{line}</pre><CopyButton text={line} /></div>)}</div>
      ) : tab === 'yaml' && lesson.yaml ? (
        <div className="col">
          <div className="row between"><span className="muted small">{t('learn.yamlHelp')}</span><CopyButton text={lesson.yaml} /></div>
          <div className="panel editorpanel short"><Suspense fallback={<div className="pad"><Skeleton rows={10} /></div>}><Editor label={t('learn.yaml')} value={lesson.yaml} readOnly /></Suspense></div>
        </div>
      ) : (
        <ol className="steps">{lesson.steps.map((s, i) => <li key={i}><Prose text={local(s)} /></li>)}</ol>
      )}
      {next && <div className="row"><Link href={path('learn', next.id)} className="btn">{t('learn.next', { title: local(next.title) })}<Icon name="right" size={14} /></Link></div>}
    </article>
  );
}

export default function Learn({ id }: { id: string }) {
  const { t, local } = useT();
  const query = useQuery(q.lessons());
  // Without a lesson in the address: the first that is not so yet, and it stays when its light turns green.
  const [first, setFirst] = useState<string>();
  if (id === '' && first === undefined && query.data) setFirst((query.data.find((l) => l.light !== 'green') ?? query.data[0])?.id);
  const wanted = id === '' ? first : id;
  return (
    <Loaded query={query}>
      {(lessons) => {
        if (lessons.length === 0) return <Empty icon="learn" title={t('learn.none')}>{t('learn.noneHelp')}</Empty>;
        const at = Math.max(0, lessons.findIndex((l) => l.id === wanted));
        const lesson = lessons[at] as Lesson;
        const done = lessons.filter((l) => l.light === 'green').length;
        return (
          <div className="learn">
            <nav className="lessonlist" aria-label={t('learn.lessons')}>
              <Panel title={t('learn.lessons')} actions={<span className="small muted">{t('learn.progress', { done, total: lessons.length })}</span>}>
                <ol>
                  {lessons.map((l) => (
                    <li key={l.id}>
                      <Link href={path('learn', l.id)} aria-current={l.id === lesson.id ? 'page' : undefined}>
                        <Light lesson={l} />
                        <span className="faint lid">{l.id.toUpperCase()}</span>
                        <span>{local(l.title)}</span>
                      </Link>
                    </li>
                  ))}
                </ol>
              </Panel>
            </nav>
            <div className="col gap-l">
              <Head title={local(lesson.title)} sub={t('learn.sub', { id: lesson.id.toUpperCase() })} />
              <LessonView key={lesson.id} lesson={lesson} next={lessons[at + 1]} />
            </div>
          </div>
        );
      }}
    </Loaded>
  );
}
