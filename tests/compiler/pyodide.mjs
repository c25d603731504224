// Run tests/compiler/elsewhere.py on the Python of npm's pyodide (3.14), under Node.
// Usage: node pyodide.mjs FOLDER STEP, where FOLDER holds node_modules/pyodide. Exits as elsewhere.py does.

import path from "node:path";
import { pathToFileURL } from "node:url";

const [folder, step] = process.argv.slice(2);
const root = path.resolve(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), "../..");
const entry = pathToFileURL(path.resolve(folder, "node_modules/pyodide/pyodide.mjs"));
const { loadPyodide } = await import(entry);
const python = await loadPyodide();
python.FS.mkdir("/repository");
python.FS.mount(python.FS.filesystems.NODEFS, { root }, "/repository");
const status = python.runPython(`
import sys, runpy
sys.argv = ["elsewhere.py", "${Number(step)}"]
status = 0
try:
    runpy.run_path("/repository/tests/compiler/elsewhere.py", run_name="__main__")
except SystemExit as end:
    status = end.code or 0
status
`);
process.exit(status);
