import { client, invoke, predict, print, type Schemas } from "./requests.js";

const small: Schemas["Features"] = { colour: "red", size: 3.5 };
const large: Schemas["FeatureList"] = ["blue", 39];

await predict(small);
await predict({ features: large });
await predict({ instances: [small, large] });
await invoke({ inputs: { colour: ["red", "blue"], size: [3.5, 39] } });

const inputs: Schemas["V2InputTensor"][] = [
  { name: "colour", shape: [2], datatype: "BYTES", data: ["red", "blue"] },
  { name: "size", shape: [2], datatype: "FP64", data: [3.5, 39] },
];
const { data, response } = await client.POST("/v2/models/strings/infer", { body: { inputs } });
print("/v2/models/strings/infer", response, { inputs }, data);

// @ts-expect-error: the colour is a string
const wrong: Schemas["Features"] = { colour: 7, size: 3.5 };
