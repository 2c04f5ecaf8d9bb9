/** Files into a repository of one's own on the Hub, through its library, which is fetched when it is first needed. */

import { WebLoraError } from '../errors.js';
import { stopped } from '../http.js';
import type { ExportedFile, PushOptions, PushResult } from '../types.js';
import { addressOf } from './api.js';

/**
 * Makes a repository, private unless said otherwise, and puts files into it as one commit.
 *
 * Rejects with `name_taken` where there is a repository of this name already (`update` adds a commit to it), `bad_token`,
 * `no_rights`, `network` or `cancelled`. A repository that was made stays, empty, where the files do not arrive.
 */
export async function pushToHub(files: readonly ExportedFile[], options: PushOptions): Promise<PushResult> {
  const { isPrivate = true, update = false, title = 'Upload with web-lora', onProgress, signal } = options;
  const { endpoint: hubUrl, repo, token: accessToken } = addressOf(options);
  if (!accessToken?.startsWith('hf_')) {
    const message = `An access token that may write is needed, from ${hubUrl}/settings/tokens. It begins with hf_.`;
    throw new WebLoraError({ code: 'bad_token', message });
  }
  const total = files.reduce((sum, { bytes }) => sum + bytes.length, 0);
  const done = new Map<string, number>();
  const report = () => {
    const loaded = files.reduce((sum, { name, bytes }) => sum + bytes.length * (done.get(name) ?? 0), 0);
    onProgress?.({ phase: 'upload', loaded, total });
  };
  try {
    const { createRepo, uploadFilesWithProgress } = await import('@huggingface/hub');
    signal?.throwIfAborted();
    if (!update) {
      const ours: typeof fetch = (input, init) => fetch(input, { ...init, signal: signal ?? null });
      await createRepo({ repo, accessToken, hubUrl, visibility: isPrivate ? 'private' : 'public', fetch: ours });
    }
    const upload = uploadFilesWithProgress({
      repo,
      accessToken,
      hubUrl,
      files: files.map(({ name, bytes }) => ({ path: name, content: new Blob([bytes]) })),
      commitTitle: title,
      // Plain uploads: what belongs to an adapter is small, and there is nothing like it there yet to be told apart from.
      useXet: false,
      ...(signal ? { abortSignal: signal } : {}),
    });
    let next = await upload.next();
    for (; !next.done; next = await upload.next()) {
      if (next.value.event !== 'fileProgress' || next.value.state !== 'uploading') continue;
      done.set(next.value.path, next.value.progress);
      report();
    }
    const commit = next.value?.commit;
    if (!commit) throw new Error('the answer names no commit');
    return { url: `${hubUrl}/${repo}`, commit: commit.oid };
  } catch (error) {
    throw signal?.aborted ? stopped() : explain(error, hubUrl, repo);
  }
}

/** The Hub's refusals; anything else as a connection that failed. */
function explain(error: unknown, hubUrl: string, repo: string): WebLoraError {
  const { statusCode: status, message = '' } = error as { statusCode?: number; message?: string };
  const told = (code: 'name_taken' | 'bad_token' | 'no_rights' | 'not_found' | 'network', message: string) =>
    new WebLoraError({ code, file: repo, message });
  // What the library adds for its own users.
  const said = message.replace(/\.? ?URL: .*$/s, '');
  switch (status) {
    case 401:
      return told('bad_token', `The access token is not valid. Make a new one at ${hubUrl}/settings/tokens.`);
    case 403:
      return told('no_rights', `This token may not write to ${repo} (${said}). It must be one of ${repo.split('/')[0]}’s, with the right to write.`);
    case 404:
      return told('not_found', `There is no repository ${repo}, or this token may not see it.`);
    case 409:
      return told('name_taken', `There is a repository ${repo} already. Choose another name, or add to that one.`);
    case undefined:
      return told('network', `${hubUrl} cannot be reached, or the connection broke (${said || 'no reason is given'}).`);
    default:
      return told('network', `${hubUrl} answered ${status}: ${said}`);
  }
}
