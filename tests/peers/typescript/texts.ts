import { client, invoke, predict, print, type Schemas } from "./requests.js";

const text: Schemas["FeatureValue"] = "a good film";

await predict({ features: text });
await predict({ instances: [text, "a bad film"] });
await invoke({ inputs: [text, "a bad film"] });

const inputs: Schemas["V2InputTensor"][] = [{ name: "input-0", shape: [1], datatype: "BYTES", data: [text] }];
const { data, response } = await client.POST("/v2/models/texts/infer", { body: { inputs } });
print("/v2/models/texts/infer", response, { inputs }, data);

// @ts-expect-error: the only value is a text
const wrong: Schemas["FeatureValue"] = 7;
