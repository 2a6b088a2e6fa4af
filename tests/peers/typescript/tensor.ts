import { client, invoke, predict, print, type Schemas } from "./requests.js";

const first: Schemas["FeatureList"] = [5.1, 3.5, 1.4, 0.2];
const second: Schemas["Features"] = { x0: 6.7, x1: 3, x2: 5.2, x3: 2.3 };

await predict({ features: first });
await predict(second);
await predict({ instances: [first, second] });
await invoke({ inputs: [first, [6.7, 3, 5.2, 2.3]] });

const inputs: Schemas["V2InputTensor"][] = [{ name: "input-0", shape: [1, 4], datatype: "FP64", data: first }];
const { data, response } = await client.POST("/v2/models/tensor/infer", { body: { inputs } });
print("/v2/models/tensor/infer", response, { inputs }, data);

// @ts-expect-error: the values are numbers
const wrong: Schemas["FeatureList"] = ["5.1", 3.5, 1.4, 0.2];
