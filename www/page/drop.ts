/** Drag and drop of files and folders. */

/** Files dropped on `zone` are handed to `use`; a folder counts as the files directly in it. */
export function onDrop(zone: HTMLElement, use: (files: File[]) => void): void {
  let depth = 0;
  const over = (change: number) => {
    depth += change;
    zone.toggleAttribute('data-over', depth > 0);
  };
  zone.addEventListener('dragenter', () => over(1));
  zone.addEventListener('dragleave', () => over(-1));
  zone.addEventListener('dragover', (event) => event.preventDefault());
  zone.addEventListener('drop', async (event) => {
    event.preventDefault();
    over(-depth);
    const files = await droppedFiles(event.dataTransfer);
    if (files.length > 0) use(files);
  });
}

/** A file dropped beside a zone must not take the page away. */
export function ignoreStrayDrops(): void {
  for (const type of ['dragover', 'drop']) window.addEventListener(type, (event) => event.preventDefault());
}

async function droppedFiles(transfer: DataTransfer | null): Promise<File[]> {
  // Entries must all be taken before the first await: afterwards the transfer is empty.
  const entries = [...(transfer?.items ?? [])].map((item) => item.webkitGetAsEntry());
  const files: File[] = [];
  for (const entry of entries) {
    if (isFile(entry)) files.push(await fileOf(entry));
    if (isFolder(entry)) files.push(...(await filesIn(entry)));
  }
  return files;
}

async function filesIn(folder: FileSystemDirectoryEntry): Promise<File[]> {
  const reader = folder.createReader();
  const files: File[] = [];
  for (;;) {
    const entries = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (entries.length === 0) return files;
    for (const entry of entries) if (isFile(entry)) files.push(await fileOf(entry));
  }
}

function fileOf(entry: FileSystemFileEntry): Promise<File> {
  return new Promise((resolve, reject) => entry.file(resolve, reject));
}

function isFile(entry: FileSystemEntry | null): entry is FileSystemFileEntry {
  return entry?.isFile === true;
}

function isFolder(entry: FileSystemEntry | null): entry is FileSystemDirectoryEntry {
  return entry?.isDirectory === true;
}
