import { make } from "../elements/define.js";
export class LearningRoom extends HTMLElement { connectedCallback() { this.append(make("h1", {}, "Learning")); } }
