// Probabilities of the next token in llama.cpp, by node-llama-cpp: a job in, one JSON line out.
//
// node llama_cpp.mjs PACKAGE JOB.json, where PACKAGE is the folder of node-llama-cpp and the job has
//   model    a GGUF file
//   lora     a GGUF file of a LoRA, or null
//   prompts  lists of token ids
//   asked    for each prompt, the tokens whose probabilities are wanted
// The line is a list with, for each prompt, {best, probabilities}.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [place, file] = process.argv.slice(2);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(path.resolve(place, "dist", "index.js")).href);
const job = JSON.parse(fs.readFileSync(file, "utf8"));
const llama = await getLlama({gpu: false, build: "never", maxThreads: 1, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath: path.resolve(job.model), gpuLayers: 0});
const lora = job.lora === null ? undefined : {adapters: [{filePath: path.resolve(job.lora), scale: 1}]};
const context = await model.createContext({contextSize: 256, threads: 1, lora});
const sequence = context.getSequence();
const plain = {temperature: 1, topK: 0, topP: 1, minP: 0};
const found = [];
for (const [i, tokens] of job.prompts.entries()) {
    await sequence.clearHistory();
    const last = [tokens.at(-1), {generateNext: {probabilities: true, options: plain}}];
    const {next} = (await sequence.controlledEvaluate([...tokens.slice(0, -1), last])).at(-1);
    const best = next.probabilities.entries().next().value[0];
    found.push({best, probabilities: job.asked[i].map((token) => next.probabilities.get(token))});
}
console.log(JSON.stringify(found));
process.exit(0);
