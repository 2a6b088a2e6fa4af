import { client, invoke, predict, print, type Schemas } from "./requests.js";

const row: Schemas["Features"] = {
  elevation: 2596.5,
  aspect: 51,
  slope: 3,
  horizontal_distance_to_hydrology: 258,
  vertical_distance_to_hydrology: 0,
  horizontal_distance_to_roadways: 510,
  hillshade_9am: 221,
  hillshade_noon: 232,
  hillshade_3pm: 148,
  horizontal_distance_to_fire_points: 6279,
  wilderness_area: 1,
  soil_type: 29,
};
const list: Schemas["FeatureList"] = [2804, 139, 9, 268, 65, 3180, 234, 238, 135, 6121, 1, 12];

await predict(row);
await predict({ features: list });
await predict({ instances: [row, list] });
await invoke({ dataframe_records: [row] });

const tensor: Schemas["V2InputTensor"] = { name: "rows", shape: [1, 12], datatype: "FP64", data: list };
const body = { inputs: [tensor] };
const { data, response } = await client.POST("/v2/models/covertype/infer", { body });
print("/v2/models/covertype/infer", response, body, data);

const { error, response: refused } = await client.POST("/predict", { body: { ...row, aspect: 361 } });
const places: string[] | undefined = error?.errors?.map(({ pointer }) => pointer);
print("/predict", refused, { ...row, aspect: 361 }, error);
if (places?.[0] !== "#/aspect") throw new Error(`expected the place of the invalid value, got ${places}`);

const { data: full, response: answered } = await client.POST("/predict", {
  params: { query: { probabilities: true } },
  body: row,
});
print("/predict?probabilities=true", answered, row, full);

const { elevation, ...rest } = row;
// @ts-expect-error: a row without the elevation is not valid
const missing: Schemas["Features"] = rest;
// @ts-expect-error: a list has one value for each column
const short: Schemas["FeatureList"] = [2596];
