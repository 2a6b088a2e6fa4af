// Sends requests with the types of schema.d.ts, which openapi-typescript made from the OpenAPI document of one model.
// Each request is printed with its answer as a line of JSON: [path, status, body, answer].
import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

export type Schemas = components["schemas"];
export const client = createClient<paths>({ baseUrl: process.argv[2] ?? "" });

export async function predict(body: Schemas["PredictRequest"]): Promise<Schemas["PredictResponse"]> {
  const { data, error, response } = await client.POST("/predict", { body });
  print("/predict", response, body, data ?? error);
  if (data === undefined) throw new Error(error.detail);
  return data;
}

export async function invoke(body: Schemas["InvocationRequest"]): Promise<unknown[]> {
  const { data, error, response } = await client.POST("/invocations", { body });
  print("/invocations", response, body, data ?? error);
  return data?.predictions ?? [];
}

export function print(path: string, response: Response, body: unknown, answer: unknown): void {
  console.log(JSON.stringify([path, response.status, body, answer]));
}
