// Check the types: `types.cjs`. They compile under the strictest options, usage.ts uses them as it says, and they name
// what the modules export, no more and no less. Complaints go to stdout, one line for each.
"use strict";
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const ts = require("typescript");

const usage = path.join(__dirname, "usage.ts");
const entry = path.join(__dirname, "../../../trioweb/browser/trioweb.js");
const types = entry.replace(/js$/, "d.ts");
const program = ts.createProgram([usage, types], {
  strict: true,
  skipDefaultLibCheck: true,
  noEmit: true,
  exactOptionalPropertyTypes: true,
  noUncheckedIndexedAccess: true,
  noUnusedLocals: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  lib: ["lib.es2022.d.ts", "lib.dom.d.ts", "lib.dom.iterable.d.ts", "lib.dom.asynciterable.d.ts"],
  types: [],
});

for (const { file, start, messageText } of ts.getPreEmitDiagnostics(program)) {
  const line = file ? file.getLineAndCharacterOfPosition(start).line + 1 : 0;
  console.log(`${file?.fileName}:${line}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
}

const checker = program.getTypeChecker();
const declared = new Map();
for (const symbol of checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(types)))) {
  if (!(symbol.flags & ts.SymbolFlags.Value)) continue;
  const members = [...(symbol.members ?? [])].filter(([name, { flags }]) => {
    return !String(name).startsWith("__") && !(flags & ts.SymbolFlags.TypeParameter);
  });
  declared.set(symbol.name, new Set(members.map(([name]) => String(name))));
}

import(pathToFileURL(entry)).then((module) => {
  for (const name of new Set([...declared.keys(), ...Object.keys(module)])) {
    if (!(name in module)) console.log(`${name} is declared, and does not exist`);
    else if (!declared.has(name)) console.log(`${name} is exported, and not declared`);
    else if (name === "Session" || name === "Subscription") compare(name, module[name]);
  }
});

// Methods and getters of a class; what a constructor sets is not seen here.
function compare(name, { prototype }) {
  const internal = new Set(["constructor", ...INTERNAL]);
  for (const member of Object.getOwnPropertyNames(prototype)) {
    if (!internal.has(member) && !declared.get(name).has(member)) console.log(`${name}.${member} is not declared`);
  }
  for (const member of declared.get(name)) {
    const isField = ["closed", "methods", "topic", "position", "recovered", "missed", "ready"].includes(member);
    if (!isField && !(member in prototype)) console.log(`${name}.${member} is declared, and does not exist`);
  }
}

// What the session calls on its subscriptions.
const INTERNAL = ["open", "shut", "end", "ended", "event", "gap", "presence"];
