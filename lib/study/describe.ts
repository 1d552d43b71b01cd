// What a study's results depend on, as the first line of its file.
import type { Model } from '../model/model.js'
import type { StudyData } from './data.js'
import type { StudyLine } from './lines.js'
import type { StudySettings } from './settings.js'
import { tracks } from './tracks.js'

export async function describeStudy(
  model: Model,
  data: StudyData,
  settings: StudySettings,
): Promise<StudyLine> {
  const rows: Record<string, number> = {}
  for (const track of tracks) {
    rows[`${track}: train`] = data.train[track].length
    rows[`${track}: validation`] = data.validation[track].length
  }
  for (const [name, items] of data.tests) {
    for (const [how, list] of Object.entries(items)) rows[`${name}: ${how}`] = list.length
  }
  return {
    type: 'study',
    // As it reads back from its file.
    settings: JSON.parse(JSON.stringify(settings)) as StudyLine['settings'],
    model: model.directory,
    modelFingerprint: await model.fingerprint(),
    dataFingerprint: data.fingerprint,
    dtype: model.dtype,
    device: model.device,
    parameters: model.parameters,
    rows,
  }
}
