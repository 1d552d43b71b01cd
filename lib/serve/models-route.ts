// GET /v1/models and /v1/models/{id}: the base model and its adapters.
import { modelNotFound } from './http-error.js'
import type { Service } from './service.js'

function describe(service: Service, id: string, adapter: boolean): object {
  const { model, loaded, started } = service
  return {
    ...{ id, object: 'model', created: loaded.get(id) ?? started, owned_by: 's2ft' },
    // vLLM's names.
    ...{ root: id, parent: adapter ? model.name : null, max_model_len: model.contextLength },
  }
}

export function listModels(service: Service): object {
  const names = service.engine.adapters().map(({ name }) => describe(service, name, true))
  return { object: 'list', data: [describe(service, service.model.name, false), ...names] }
}

/** Throws a 404 for a name that is neither the base model's nor an adapter's. */
export function oneModel(service: Service, id: string): object {
  if (id === service.model.name) return describe(service, id, false)
  if (!service.engine.adapters().some(({ name }) => name === id)) throw modelNotFound(id)
  return describe(service, id, true)
}
