/** Models of the Hugging Face Hub, and those of them that the tab keeps. */

import type { Stoppable } from './device.js';
import type { Progress } from './model.js';

/**
 * A model by its name on the Hugging Face Hub. Its files are downloaded into the tab's storage, from where a second
 * load takes them without the network.
 */
export interface HubSource {
  /** `org/name`. */
  repo: string;
  /** Branch, tag or commit; `main` where not given. */
  revision?: string;
  /** Name of a {@link HubChoice} or of one of its files; the first choice where not given. */
  file?: string;
  /** Access token, for gated and private models. It is sent to the endpoint alone, and not kept. */
  token?: string;
  /** Of a mirror; https://huggingface.co where not given. */
  endpoint?: string;
}

/** What the Hub says of one commit of a repository. */
export interface HubListing {
  endpoint: string;
  repo: string;
  /** As asked for. */
  revision: string;
  /** What the revision stands for. */
  commit: string;
  /** Its files need a token of someone who has accepted the authors' terms. */
  gated: boolean;
  license?: string;
  /** What can be loaded, the one to propose first. */
  choices: HubChoice[];
  files: HubFile[];
}

/** Files that make a model: those of a folder with safetensors, or a GGUF file with all its parts. */
export interface HubChoice {
  name: string;
  files: HubFile[];
  sizeBytes: number;
}

/** A file of a repository, as the Hub lists it. */
export interface HubFile {
  path: string;
  /** In bytes. */
  size: number;
  /** Git's name for the contents; of a large file, for the pointer to it. */
  oid: string;
  /** Of large files. */
  sha256?: string;
}

/** A model kept in the tab's storage, whole or in part. */
export interface CachedModel {
  /** The very commit, to load it without the network. */
  source: HubSource;
  /** Under which it was last asked for. */
  revision: string;
  sizeBytes: number;
  cachedBytes: number;
  complete: boolean;
}

/** Where to put files on the Hub, and how. */
export interface PushOptions extends Stoppable {
  /** `org/name`, or one's own name for the first. */
  repo: string;
  /** Access token with the right to write. It is sent to the endpoint alone, and not kept. */
  token: string;
  /** Only oneself can see it. Default: true. */
  isPrivate?: boolean;
  /** The repository is there already: adds a commit to it. Default: false. */
  update?: boolean;
  /** Of the commit. */
  title?: string;
  /** Of a mirror; https://huggingface.co where not given. */
  endpoint?: string;
  /** Called often, with bytes of the files that have arrived. */
  onProgress?: (progress: Progress) => void;
}

/** What came of it. */
export interface PushResult {
  /** Of the repository. */
  url: string;
  commit: string;
}
